"use strict";
/* Elements, numbers as people read them, and questions to the service. */

const $ = id => document.getElementById(id);

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}
const html = (name, attributes = {}, ...children) => fill(document.createElement(name), attributes, children);
const svg = (name, attributes = {}, ...children) =>
  fill(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);

const count = new Intl.NumberFormat("en");
const signed = x => (x < 0 ? "−" : "+") + Math.abs(x).toFixed(2);
const percent = share => `${(100 * share).toFixed(share > 0 && share < 0.1 ? 1 : 0)} %`;
const sideOf = x => (x > 0 ? "up" : "down");

/** The colour of a score: grey in the middle, stronger to both ends. */
const shade = score =>
  `color-mix(in oklab, var(--${score < 0 ? "bad" : "good"}) ${Math.round(100 * Math.sqrt(Math.abs(score)))}%, var(--mid))`;

const pause = (ms, signal) => new Promise((done, stop) => {
  const timer = setTimeout(done, ms);
  signal?.addEventListener("abort", () => { clearTimeout(timer); stop(signal.reason); });
});

/** The service's answer; otherwise an Error that says in words what is wrong. Where it is busy we wait. */
async function ask(path, body, signal) {
  for (let wait = 250; ; wait *= 2) {
    let answer;
    try {
      const json = { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
      answer = await fetch(path, { signal, ...(body === undefined ? {} : json) });
    } catch (error) {
      if (signal?.aborted) throw error;
      throw new Error("The service does not answer. Is it still running?");
    }
    const found = await answer.json().catch(() => ({ error: `the service answered with status ${answer.status}` }));
    if (answer.ok) return found;
    if (answer.status !== 503 || wait > 4000) throw new Error(`${found.error[0].toUpperCase()}${found.error.slice(1)}.`);
    await pause(wait, signal);
  }
}
