/* Tables as they arrive: records of CSV, guesses which column is what, cells to write. */

const USUAL = ["text", "review", "tweet", "sentence", "comment", "content", "message", "body", "post"];

/** Records of delimited text. Quoted fields may hold the mark, line ends and doubled quotes; blank lines are none. */
async function* records(chunks, mark) {
  let record = [], field = "", quoted = false, closed = false;
  for await (const chunk of chunks) {
    for (let k = 0; k < chunk.length; k++) {
      const c = chunk[k];
      if (quoted) {
        if (c === '"') [quoted, closed] = [false, true]; else field += c;
      } else if (c === '"' && closed) {
        field += c;
        [quoted, closed] = [true, false];
      } else if (c === '"' && field === "") {
        quoted = true;
      } else if (c === mark) {
        record.push(field);
        [field, closed] = ["", false];
      } else if (c === "\n" || c === "\r") {
        if (record.length || field || closed) yield [...record, field];
        [record, field, closed] = [[], "", false];
      } else {
        field += c;
        closed = false;
      }
    }
  }
  if (record.length || field || closed) yield [...record, field];
}

/** Each line a record of one field. */
async function* lines(chunks) {
  let rest = "";
  for await (const chunk of chunks) {
    const found = (rest + chunk).split("\n");
    rest = found.pop();
    for (const line of found) yield [line.replace(/\r$/, "")];
  }
  if (rest) yield [rest];
}

/** The text of a file, part by part; `seen(bytes)` is told how far it is read. */
async function* textOf(file, seen = () => {}) {
  const counted = new TransformStream({
    transform(part, out) { seen(part.length); out.enqueue(part); },
  });
  let stream = file.stream().pipeThrough(counted);
  if (/\.gz$/i.test(file.name)) stream = stream.pipeThrough(new DecompressionStream("gzip"));
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (let part; !(part = await reader.read()).done;) yield part.value;
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** What a file is: the names of its columns, its first rows, and `rows(seen)` that reads them all. */
async function openTable(file) {
  let head = "";
  try {
    for await (const part of textOf(file)) if ((head += part).length > 1 << 16) break;
  } catch {
    throw new Error(`${file.name} cannot be read; is it whole?`);
  }
  if (!head.trim()) throw new Error(`${file.name} is empty.`);
  if (/^PAR1|\0/.test(head) || /^\s*[{[]/.test(head))
    throw new Error(`${file.name} is no CSV. Drop CSV, TSV or text lines here; nextstate buzz --file reads JSON lines and Parquet.`);
  if (/\.txt(\.gz)?$/i.test(file.name))
    return { names: ["text"], sample: [], mark: "\t", rows: seen => lines(textOf(file, seen)) };
  const top = head.split(/[\r\n]/, 1)[0];
  const mark = ["\t", ";", ","].reduce((a, b) => (top.split(b).length > top.split(a).length ? b : a), ",");
  const reader = records([head], mark);
  const names = (await reader.next()).value, sample = [];
  for await (const record of reader) if (sample.push(record) >= 20) break;
  if (new Set(names).size < names.length) throw new Error(`${file.name} has two columns of one name: ${names.join(", ")}.`);
  async function* rows(seen) {
    const all = records(textOf(file, seen), mark);
    await all.next();  // the names
    yield* all;
  }
  return { names, sample, mark, rows };
}

/** Which columns hold text, time and topic; -1 for none. Times are what the service reads as such. */
async function guess({ names, sample }) {
  const lower = names.map(name => name.trim().toLowerCase());
  const usual = [...USUAL.map(word => lower.indexOf(word)), ...USUAL.map(word => lower.findIndex(name => name.includes(word)))];
  const length = column => sample.reduce((sum, record) => sum + (record[column] ?? "").length, 0);
  const longest = names.map((_, column) => column).reduce((a, b) => (length(b) > length(a) ? b : a), 0);
  const text = usual.find(column => column >= 0) ?? longest;
  const others = lower.map((name, column) => [name, column]).filter(([, column]) => column !== text);
  let time = -1;
  for (const [, column] of others.filter(([name]) => /time|date|created|posted|day|when/.test(name))) {
    const { days } = await ask("days", { times: sample.map(record => (record[column] ?? "").slice(0, 100)) });
    if (days.some(day => day !== null)) { time = column; break; }
  }
  const topic = others.find(([name, column]) => column !== time && /topic|brand|product|company|subject|categor|query|airline/.test(name));
  return { text, time, topic: topic ? topic[1] : -1 };
}

const cell = (value, mark) => /["\r\n]/.test(value) || value.includes(mark) ? `"${value.replaceAll('"', '""')}"` : value;

/** Names of the columns that are written: those read, then the answer; equal ones are set apart. */
function outputNames(names) {
  const added = ["label", "score", "probability"], taken = new Set([...names, ...added]);
  const kept = names.map(name => {
    let other = name;
    while (added.includes(other) || (other !== name && taken.has(other))) other = `input_${other}`;
    taken.add(other);
    return other;
  });
  return [...kept, ...added];
}
