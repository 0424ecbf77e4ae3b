/* What you type: the gauge moves, words are coloured by what they add. */

const EXAMPLES = ["What a wonderful surprise!", "Lost my bag and nobody answers the phone.", "It is not bad, but I would not go again."];
let limits = { text: 100000, explained: 5000, texts: 2000, body: 2 << 20 };  // the service says its own

const point = gauge($("gauge"));

function showScore(found) {
  const { label, score, probability, probabilities } = found;
  point(score ?? 0);
  $("gauge").setAttribute("aria-valuenow", (score ?? 0).toFixed(2));
  $("gauge").setAttribute("aria-valuetext", score === null ? label : `${label}, ${signed(score)}`);
  $("verdict").textContent = label;
  $("detail").textContent = score === null ? "this model's labels have no scale" : `score ${signed(score)}, ${percent(probability)} sure`;
  $("shares").replaceChildren(...Object.entries(probabilities).flatMap(([name, share]) => {
    const bar = html("i");
    bar.style.width = percent(share).replace(" ", "");
    bar.style.background = /^pos/i.test(name) ? "var(--good)" : /^neg/i.test(name) ? "var(--bad)" : "";
    return [html("dt", {}, name), html("dd", { class: "bar", "aria-hidden": "true" }, bar), html("dd", { class: "number" }, percent(share))];
  }));
}

function showWords(text, { words }) {
  const letters = Array.from(text);  // the service counts code points
  const most = Math.max(0.05, ...words.map(word => Math.abs(word.contribution)));
  const parts = [];
  let end = 0;
  for (const word of words) {
    const strength = Math.abs(word.contribution) / most, marked = html("b", {}, letters.slice(word.start, word.end).join(""));
    marked.title = `adds ${signed(word.contribution)}`;
    marked.style.background = `color-mix(in oklab, var(--${word.contribution < 0 ? "bad" : "good"}) ${Math.round(35 * strength)}%, transparent)`;
    if (strength > 0.3) marked.className = sideOf(word.contribution);
    parts.push(letters.slice(end, word.start).join(""), marked);
    end = word.end;
  }
  $("words").replaceChildren(...parts, letters.slice(end).join(""));
  const strongest = words.filter(word => Math.abs(word.contribution) >= 0.01)
    .sort((a, b) => Math.abs(b.contribution) - Math.abs(a.contribution)).slice(0, 5);
  const named = strongest.flatMap(({ word, contribution }, k) => [
    k ? ", " : "", `${word} `, html("span", { class: `number ${sideOf(contribution)}-ink` }, signed(contribution))]);
  $("strongest").replaceChildren(...(named.length ? ["What moved it most: ", ...named] : []));
}

let typing = new AbortController();

async function typed() {
  typing.abort();
  typing = new AbortController();
  const { signal } = typing, text = $("text").value.toWellFormed?.() ?? $("text").value;
  $("type-error").textContent = "";
  if (!text.trim()) {
    point(0);
    $("gauge").setAttribute("aria-valuenow", 0);
    $("gauge").removeAttribute("aria-valuetext");
    $("verdict").textContent = "no text yet";
    $("detail").textContent = "from −1, negative, to +1, positive";
    for (const id of ["shares", "words", "strongest", "told"]) $(id).replaceChildren();
    return;
  }
  try {
    await pause(90, signal);
    showScore((await ask("score", { text }, signal)).results[0]);
    await pause(160, signal);
    if (Array.from(text).length <= limits.explained) showWords(text, await ask("explain", { text }, signal));
    else $("strongest").replaceChildren($("words").textContent = "");
    await pause(500, signal);  // read aloud only when the typing rests
    $("told").textContent = $("gauge").getAttribute("aria-valuetext");
  } catch (error) {
    if (!signal.aborted) $("type-error").textContent = error.message;
  }
}

$("text").addEventListener("input", typed);
$("examples").append(...EXAMPLES.map(text => {
  const button = html("button", { type: "button" }, text);
  button.addEventListener("click", () => { $("text").value = text; typed(); });
  return button;
}));
