/* Pictures: the gauge, how scores lie, and the index over time. */

/** Draw into a place again whenever its width changes; the function returned draws at once. */
function drawn(place, draw) {
  let width = 0;
  const again = () => { if (place.clientWidth) place.replaceChildren(draw(width = place.clientWidth)); };
  new ResizeObserver(() => { if (place.clientWidth !== width) again(); }).observe(place);
  return again;
}

/** A half circle of segments with a needle. Returns what moves it to a score in [-1, 1]. */
function gauge(place) {
  const at = (score, r) => {
    const angle = (score - 1) * Math.PI / 2;
    return `${(100 + r * Math.cos(angle)).toFixed(2)} ${(100 + r * Math.sin(angle)).toFixed(2)}`;
  };
  const segments = [];
  for (let k = 0; k < 25; k++) {
    const [from, to] = [-1 + (2 * k + 0.15) / 25, -1 + (2 * k + 1.85) / 25];
    const path = `M${at(from, 92)}A92 92 0 0 1 ${at(to, 92)}L${at(to, 70)}A70 70 0 0 0 ${at(from, 70)}Z`;
    segments.push(svg("path", { d: path }));
    segments[k].style.fill = shade((from + to) / 2);
  }
  const needle = svg("g", { class: "needle" }, svg("path", { d: "M96.5 100 100 24l3.5 76z" }), svg("circle", { cx: 100, cy: 100, r: 7 }));
  place.append(svg("svg", { viewBox: "0 0 200 112", "aria-hidden": "true" }, ...segments, needle));
  return score => { needle.style.transform = `rotate(${90 * score}deg)`; };
}

/** Bars of counts over the score from -1 to +1. */
function histogram(bins) {
  return width => {
    const height = 150, base = height - 22, most = Math.max(1, ...bins), step = width / bins.length;
    const bars = bins.map((number, k) => {
      const tall = number / most * (base - 6), middle = -1 + (2 * k + 1) / bins.length;
      const bar = svg("rect", { x: k * step + 1, width: step - 2, y: base - tall, height: tall, rx: 2 },
        svg("title", {}, `${signed(middle)}: ${count.format(number)} rows`));
      bar.style.fill = shade(middle);
      return bar;
    });
    const ticks = [[-1, "start", "negative −1"], [0, "middle", "0"], [1, "end", "+1 positive"]].map(([x, anchor, name]) =>
      svg("text", { x: (x + 1) / 2 * width, y: height - 5, "text-anchor": anchor }, name));
    const told = `Rows by score from -1 to +1 in ${bins.length} steps: ${bins.join(", ")}.`;
    return svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": told },
      svg("line", { class: "axis", x1: 0, x2: width, y1: base, y2: base }), ...bars, ...ticks);
  };
}

const DAY = 86400000;
const dated = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", timeZone: "UTC" });
const withYear = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", year: "numeric", timeZone: "UTC" });

/** The index a topic: picture, what changed in words, and the figures as a table. */
function overTime(place, index) {
  place.replaceChildren();
  const all = Object.values(index.topics).flat().map(entry => Date.parse(entry.day));
  const first = all.reduce((a, b) => Math.min(a, b), Infinity), last = all.reduce((a, b) => Math.max(a, b), -Infinity);
  const sure = `${100 * index.confidence} %`;
  for (const [topic, entries] of Object.entries(index.topics)) {
    const posts = entries.reduce((sum, entry) => sum + entry.posts, 0);
    const changes = entries.filter(entry => entry.change !== null);
    const told = changes.map(e => `${withYear.format(Date.parse(e.day))} by ${signed(e.change)}`).join(", ");
    const picture = html("div");
    const rows = entries.map(e => html("tr", {}, ...[e.day, count.format(e.posts), signed(e.mean),
      e.low === null ? "" : `${signed(e.low)} to ${signed(e.high)}`, e.change === null ? "" : signed(e.change),
    ].map(cell => html("td", {}, cell))));
    const names = ["day", "posts", "mean score", `${sure} interval`, "changed by"].map(name => html("th", { scope: "col" }, name));
    place.append(html("figure", { class: "topic" },
      html("figcaption", {}, html("h3", {}, topic),
        html("span", { class: "soft" }, `${count.format(posts)} posts on ${count.format(entries.length)} ${entries.length === 1 ? "day" : "days"}. ${told ? `Changed on ${told}.` : "No day changed."}`)),
      picture,
      html("details", {}, html("summary", {}, `Figures of ${topic}`),
        html("div", { class: "scroll", tabindex: 0 },
          html("table", {}, html("thead", {}, html("tr", {}, ...names)), html("tbody", {}, ...rows))))));
    drawn(picture, width => days(entries, width, first, last, `${topic}: mean score a day with ${sure} intervals. ${told ? `Changed on ${told}.` : ""}`));
  }
}

/** The days of one topic: mean, interval, and dotted marks at days that changed. */
function days(entries, width, first, last, told) {
  const [left, right, top, base] = [34, 12, 14, 136];
  const x = day => last > first ? left + (Date.parse(day) - first) / (last - first) * (width - left - right) : (left + width - right) / 2;
  const y = score => top + (1 - score) / 2 * (base - top);
  const parts = [-1, 0, 1].flatMap(score => [
    svg("line", { class: "axis", x1: left, x2: width - right, y1: y(score), y2: y(score) }),
    svg("text", { x: left - 8, y: y(score) + 4, "text-anchor": "end" }, score ? signed(score).slice(0, 2) : "0")]);
  const runs = [];
  for (const entry of entries) {  // a line is not drawn over gaps of more than a week
    const run = runs.at(-1);
    if (run && Date.parse(entry.day) - Date.parse(run.at(-1).day) <= 7 * DAY) run.push(entry); else runs.push([entry]);
  }
  for (const run of runs) {
    const known = run.filter(entry => entry.low !== null);
    if (known.length === 1) {
      const [{ day, low, high }] = known;
      parts.push(svg("line", { class: "whisker", x1: x(day), x2: x(day), y1: y(low), y2: y(high) }));
    }
    const edge = [...known.map(e => `${x(e.day)},${y(e.high)}`), ...known.toReversed().map(e => `${x(e.day)},${y(e.low)}`)];
    parts.push(svg("polygon", { class: "band", points: edge.join(" ") }));
    parts.push(svg("polyline", { class: "line", points: run.map(e => `${x(e.day)},${y(e.mean)}`).join(" ") }));
  }
  for (const entry of entries) {
    if (entry.change !== null) {
      const at = x(entry.day), end = at > width - 60;
      parts.push(svg("line", { class: `mark ${sideOf(entry.change)}`, x1: at, x2: at, y1: top, y2: base }),
        svg("text", { class: sideOf(entry.change), x: at + (end ? -5 : 5), y: top + 9, "text-anchor": end ? "end" : "start" }, signed(entry.change)));
    }
    parts.push(svg("circle", { class: "dot", cx: x(entry.day), cy: y(entry.mean), r: entries.length > 120 ? 1.5 : 3 },
      svg("title", {}, `${entry.day}: ${signed(entry.mean)}, ${entry.posts} posts`)));
  }
  const span = Math.round((last - first) / DAY), step = Math.max(1, Math.ceil(span / Math.max(1, Math.floor((width - left) / 85))));
  for (let n = 0; n <= span; n += step) {
    const day = first + n * DAY, at = x(new Date(day).toISOString());
    const format = n ? dated : withYear;
    parts.push(svg("text", { x: at, y: base + 20, "text-anchor": n ? (at > width - 30 ? "end" : "middle") : "start" }, format.format(day)));
  }
  return svg("svg", { viewBox: `0 0 ${width} 160`, role: "img", "aria-label": told }, ...parts);
}
