/* The reference, from what the service says of itself. */

function typeOf(schema, all) {
  if (schema.$ref) return schema.$ref.split("/").at(-1);
  if (schema.anyOf) return schema.anyOf.map(part => typeOf(part, all)).join(" or ");
  if (schema.type === "array") return `list of ${typeOf(schema.items, all)}`;
  if (schema.type === "object" && schema.additionalProperties) return `object of ${typeOf(schema.additionalProperties, all)}`;
  const bounds = [["minimum", "≥"], ["exclusiveMinimum", ">"], ["maximum", "≤"], ["exclusiveMaximum", "<"]];
  const said = bounds.filter(([name]) => name in schema).map(([name, sign]) => `${sign} ${schema[name]}`);
  return [schema.format ?? schema.type ?? "any", ...said].join(" ");
}

/** The fields of a schema, then those of the schemas it names. */
function fields(schema, all, done = new Set()) {
  const name = schema.$ref?.split("/").at(-1);
  if (!name || done.has(name)) return [];
  done.add(name);
  const { description = "", properties = {}, required = [] } = all[name];
  const rows = Object.entries(properties).map(([field, about]) => html("tr", {},
    html("td", {}, html("code", {}, field)), html("td", {}, typeOf(about, all)),
    html("td", { class: "soft" }, required.includes(field) ? "" : about.default === undefined ? "optional" : `default ${JSON.stringify(about.default)}`)));
  const named = Object.values(properties).flatMap(about => [about, about.items, about.additionalProperties, about.additionalProperties?.items])
    .filter(about => about?.$ref);
  return [html("p", {}, html("strong", {}, name), ` ${description.replaceAll("`", "")}`), html("table", { class: "fields" }, html("tbody", {}, ...rows)),
    ...named.flatMap(about => fields(about, all, done))];
}

function endpoint(path, method, about, all) {
  const sent = about.requestBody?.content["application/json"].schema;
  const got = about.responses[200].content?.["application/json"]?.schema;
  const refused = Object.entries(about.responses).filter(([status]) => status >= 400)
    .map(([status, { description }]) => html("tr", {}, html("td", {}, html("code", {}, status)), html("td", {}, description)));
  const place = new URL(path.slice(1), document.baseURI);
  const call = sent ? `curl ${place} -H 'content-type: application/json' -d '${example(path)}'` : `curl ${place}`;
  return html("section", { class: "card" },
    html("h2", {}, html("span", { class: "method" }, method.toUpperCase()), ` ${path}`), html("p", {}, (about.description ?? "").replaceAll("`", "")),
    html("pre", { tabindex: 0 }, call), ...(sent ? fields(sent, all) : []),
    html("details", {}, html("summary", {}, "Answer"), ...(got ? fields(got, all) : [html("p", {}, "Text, as it is written.")])),
    ...(refused.length ? [html("details", {}, html("summary", {}, "Refusals: {\"error\": sentence}"),
      html("table", { class: "fields" }, html("tbody", {}, ...refused)))] : []));
}

const example = path => JSON.stringify({
  "/score": { texts: ["what a film", "never again"] }, "/explain": { text: "what a film" }, "/sort": { numbers: [3, 1, 2] },
  "/generate": { prime: "ROMEO:", length: 100 }, "/days": { times: ["Tue Oct 18 21:53:25 +0000 2011"] },
  "/index": { days: [{ topic: "tea", day: "2024-01-01", posts: 2, total: 0.5, squares: 0.3 }] },
}[path] ?? {});

ask("openapi.json").then(({ paths, components }) => {
  for (const [path, methods] of Object.entries(paths)) for (const [method, about] of Object.entries(methods))
    $("endpoints").append(endpoint(path, method, about, components.schemas));
}, error => { $("trouble").textContent = error.message; });
