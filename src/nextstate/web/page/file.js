/* A file dropped: its rows scored in the order they stand, what came out shown and kept for download. */

const BINS = 20, SHOWN = 5, TOPICS = 200, PANELS = 12;
let table = null, running = new AbortController(), link = "";

/** Everything known of the rows scored so far; memory does not grow with them but for the file to download. */
class Results {
  constructor(names, mark) {
    this.mark = mark;
    this.rows = this.unread = this.timed = this.untimed = 0;
    this.total = this.scored = 0;
    this.labels = new Map();
    this.bins = new Array(BINS).fill(0);
    this.best = [];
    this.worst = [];
    this.topics = new Map();
    this.parts = [];
    this.waiting = outputNames(names).map(name => cell(name, mark)).join(mark) + "\n";
  }

  write(record, added) {
    this.waiting += [...record, ...added].map(value => cell(String(value), this.mark)).join(this.mark) + "\n";
    if (this.waiting.length < 1 << 22) return;
    this.parts.push(new Blob([this.waiting]));  // the browser may keep it on disk
    this.waiting = "";
  }

  add(record, text, answer, topic, day) {
    this.rows++;
    if (answer === null) {
      this.unread++;
      this.write(record, ["", "", ""]);
      return;
    }
    const { label, score, probability } = answer, short = x => x === null ? "" : Number(x.toPrecision(6));
    this.write(record, [label, short(score), short(probability)]);
    this.labels.set(label, (this.labels.get(label) ?? 0) + 1);
    if (score === null) return;
    this.total += score;
    this.scored++;
    this.bins[Math.min(BINS - 1, Math.floor((score + 1) / 2 * BINS))]++;
    keep(this.best, { score, text }, score);
    keep(this.worst, { score, text }, -score);
    if (day) this.count(topic, day, score);
    else this.untimed++;
  }

  count(topic, day, score) {
    this.timed++;
    if (!this.topics.has(topic) && this.topics.size >= TOPICS) throw new Error(
      `The column of topics has more than ${TOPICS} different values; choose another, or none.`);
    const found = this.topics.get(topic) ?? this.topics.set(topic, new Map()).get(topic);
    const sums = found.get(day) ?? found.set(day, [0, 0, 0]).get(day);
    sums[0]++;
    sums[1] += score;
    sums[2] += score * score;
  }

  /** Sums a topic and day as the service takes them, of the topics with most posts. */
  days() {
    const posts = found => [...found.values()].reduce((sum, [number]) => sum + number, 0);
    const largest = [...this.topics].sort((a, b) => posts(b[1]) - posts(a[1])).slice(0, PANELS);
    return largest.flatMap(([topic, found]) =>
      [...found].map(([day, [number, total, squares]]) => ({ topic, day, posts: number, total, squares })));
  }
}

/** The few rows with the highest `rank`, highest first. */
function keep(rows, row, rank) {
  if (rows.length === SHOWN && rank <= rows.at(-1).rank) return;
  const place = rows.findIndex(other => rank > other.rank);
  rows.splice(place < 0 ? rows.length : place, 0, { ...row, text: row.text.slice(0, 300), rank });
  if (rows.length > SHOWN) rows.pop();
}

/** Rows in groups that make one request: as many as may be scored at once within its limits. */
async function* groups(rows, width, column) {
  const most = Math.min(400, limits.texts);
  let group = [], size = 0;
  for await (const record of rows) {
    const text = record.length === width ? record[column].toWellFormed?.() ?? record[column] : null;
    const good = text !== null && text.length <= limits.text;
    if (group.length && (group.length >= most || size + 3 * text?.length > limits.body / 2)) {
      yield group;
      [group, size] = [[], 0];
    }
    const whole = Array.from({ length: width }, (_, k) => record[k] ?? "");
    if (record.length > width) whole[width - 1] = record.slice(width - 1).join(table.mark);
    group.push({ record: whole, text: good ? text : null });
    size += good ? 3 * text.length : 0;
  }
  if (group.length) yield group;
}

async function answered(group, { time, topic }, signal) {
  const texts = group.filter(row => row.text !== null).map(row => row.text);
  const times = [...new Set(time < 0 ? [] : group.map(row => row.record[time].slice(0, 100)))];
  const [{ results }, { days }] = await Promise.all([
    ask("score", { texts }, signal), times.length ? ask("days", { times }, signal) : { days: [] }]);
  const day = new Map(times.map((text, k) => [text, days[k]])), next = results.values();
  return group.map(({ record, text }) => ({
    record, text, answer: text === null ? null : next.next().value,
    topic: topic < 0 ? "all posts" : record[topic].slice(0, 80) || "no topic", day: time < 0 ? null : day.get(record[time].slice(0, 100)),
  }));
}

async function scoreFile(file, columns) {
  running.abort();
  running = new AbortController();
  const { signal } = running, results = new Results(table.names, table.mark), began = performance.now();
  let seen = 0, shown = 0;
  URL.revokeObjectURL(link);
  for (const id of ["file-error", "summary"]) $(id).textContent = "";
  for (const id of ["best", "worst", "buzz"]) $(id).replaceChildren();
  $("download").hidden = true;
  $("scoring").hidden = $("results").hidden = false;
  $("progress").value = 0;
  $("pace").textContent = "begins";
  const picture = html("div"), draw = drawn(picture, histogram(results.bins));
  $("distribution").replaceChildren(picture);

  const take = rows => {
    for (const row of rows) results.add(row.record, row.text, row.answer, row.topic, row.day);
    if (performance.now() - shown < 250) return;
    shown = performance.now();
    const rate = results.rows / (shown - began) * 1000;
    $("progress").value = seen / file.size;
    $("pace").textContent = `${count.format(results.rows)} rows, ${count.format(Math.round(rate))} a second`;
    draw();
  };
  try {
    const flying = [];
    for await (const group of groups(table.rows(bytes => { seen += bytes; }), table.names.length, columns.text)) {
      signal.throwIfAborted();
      const answer = answered(group, columns, signal);
      answer.catch(() => {});  // told where it is awaited
      flying.push(answer);
      if (flying.length > 2) take(await flying.shift());
    }
    for (const answer of flying) take(await answer);
    draw();
    await showResults(file, results, signal);
  } catch (error) {
    if (!signal.aborted) $("file-error").textContent = error.message;
    if (running.signal === signal) $("results").hidden = true;
  } finally {
    if (running.signal === signal) $("scoring").hidden = true;
  }
}

async function showResults(file, results, signal) {
  const { rows, unread, scored, total, labels, mark } = results;
  const shares = [...labels].sort().map(([label, number]) => `${percent(number / (rows - unread))} ${label}`);
  const told = [`${count.format(rows)} rows scored: ${shares.join(", ")}.`];
  if (scored) told.push(`Mean score ${signed(total / scored)}.`);
  if (unread) told.push(`${count.format(unread)} rows could not be read and are kept without a score.`);
  if (results.timed && results.untimed) told.push(`${count.format(results.untimed)} rows state no time that is understood; the days leave them out.`);
  for (const [id, kept] of [["best", results.best], ["worst", results.worst]])
    $(id).replaceChildren(...kept.map(({ score, text }) =>
      html("li", {}, html("span", { class: `number ${sideOf(score)}-ink` }, signed(score)), html("span", {}, text))));
  link = URL.createObjectURL(new Blob([...results.parts, results.waiting], { type: "text/csv" }));
  $("download").href = link;
  $("download").download = file.name.replace(/(\.gz)?$/i, "").replace(/(\.\w+)?$/, mark === "\t" ? "-scored.tsv" : "-scored.csv");
  $("download").hidden = false;
  if (results.timed) {
    overTime($("buzz"), await ask("index", { days: results.days() }, signal));
    if (results.topics.size > PANELS) told.push(`Shown are the ${PANELS} topics with most posts of ${results.topics.size}.`);
  }
  $("summary").textContent = told.join(" ");
}

const selects = ["text", "time", "topic"];
const chosen = () => Object.fromEntries(selects.map(name => [name, Number($(`${name}-column`).value)]));

async function take(file) {
  running.abort();
  running = new AbortController();
  const { signal } = running;
  for (const id of ["file-error", "summary"]) $(id).textContent = "";
  for (const id of ["columns", "scoring", "results"]) $(id).hidden = true;
  $("file-name").textContent = file.name;
  try {
    const opened = await openTable(file), found = await guess(opened);
    if (signal.aborted) return;
    table = opened;
    for (const name of selects) {
      const options = table.names.map((column, k) => new Option(column || `column ${k + 1}`, k));
      $(`${name}-column`).replaceChildren(...(name === "text" ? [] : [new Option("none", -1)]), ...options);
      $(`${name}-column`).value = found[name];
      $(`${name}-column`).onchange = () => scoreFile(file, chosen());
    }
    $("columns").hidden = table.names.length < 2;
    await scoreFile(file, found);
  } catch (error) {
    if (!signal.aborted) $("file-error").textContent = error.message;
  }
}

$("file").addEventListener("change", ({ target }) => { if (target.files[0]) take(target.files[0]); target.value = ""; });
$("cancel").addEventListener("click", () => {
  running.abort();
  $("scoring").hidden = $("results").hidden = true;
  $("summary").textContent = "Stopped; nothing is kept.";
});
for (const name of ["dragover", "dragleave", "drop"]) document.addEventListener(name, event => {
  if (!event.dataTransfer.types.includes("Files")) return;
  event.preventDefault();
  document.body.classList.toggle("over", name === "dragover");
  if (name === "drop" && event.dataTransfer.files[0]) take(event.dataTransfer.files[0]);
});
