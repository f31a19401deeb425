/* The browser of recordings: a filtered list on the left, the chosen recording on paper, a moment that can be walked. */
const records = data("recordings-data");
const outputs = data("outputs");
const STEP_S = 0.04;
const shown = { list: [], record: null, paper: null, seconds: 0, only: null };
const round = (value, digits = 2) => (value === null || value === undefined ? "–" : value.toFixed(digits));
const labelText = (record) =>
  record.labels === null ? "no label" : Array.isArray(record.labels) ? record.labels.join(", ") || "none of them" : String(record.labels);

/* The label, and what the network says where that is something else. */
function summaryOf(record) {
  if (outputs.kind === "regression") return `${record.labels === null ? "" : `${round(record.labels, 0)}, `}network ${round(record.outputs[0], 0)}`;
  const says = record.decided.join(", ") || "nothing";
  if (record.labels === null) return `network: ${says}`;
  return record.labels.join() === record.decided.join() ? labelText(record) : `${labelText(record)} | network: ${says}`;
}

function matches(record) {
  const reason = byId("reason").value, kind = byId("class").value, asked = byId("search").value.trim().toLowerCase();
  const says = [...(Array.isArray(record.labels) ? record.labels : []), ...record.decided];
  return (
    (!reason || record.reasons.some((one) => one.startsWith(reason))) &&
    (!kind || says.includes(kind)) &&
    (!asked || record.id.toLowerCase().includes(asked))
  );
}
const ORDERS = {
  entropy: (a, b) => b.mean_entropy - a.mean_entropy,
  disagreement: (a, b) => (b.disagreement ?? -1) - (a.disagreement ?? -1),
  id: (a, b) => a.id.localeCompare(b.id, undefined, { numeric: true }),
};

function fillList() {
  shown.list = records.filter(matches).sort(ORDERS[byId("order").value]);
  const items = shown.list.map((record, place) =>
    html("li", { role: "option", id: `record-${place}`, "aria-selected": "false" },
      html("div", { class: "id" }, record.id),
      html("div", { class: "line" }, html("span", {}, summaryOf(record)), html("span", {}, `entropy ${round(record.mean_entropy)}`))));
  items.forEach((item, place) => item.addEventListener("click", () => choose(place)));
  byId("list").replaceChildren(...items);
  byId("found").textContent = `${shown.list.length} of ${records.length} recordings`;
  const again = shown.list.indexOf(shown.record);
  if (shown.list.length) choose(Math.max(again, 0));
  else byId("list").removeAttribute("aria-activedescendant");
}

function choose(place) {
  const list = byId("list"), record = shown.list[place];
  list.querySelector('[aria-selected="true"]')?.setAttribute("aria-selected", "false");
  const item = list.children[place];
  item.setAttribute("aria-selected", "true");
  list.setAttribute("aria-activedescendant", item.id);
  const above = item.offsetTop - list.offsetTop;
  if (above < list.scrollTop) list.scrollTop = above;
  else if (above + item.offsetHeight > list.scrollTop + list.clientHeight) list.scrollTop = above + item.offsetHeight - list.clientHeight;
  if (record !== shown.record) {
    Object.assign(shown, { record, seconds: 0, only: null });
    drawRecord();
  }
}

function drawRecord() {
  const { record } = shown;
  byId("record-id").textContent = record.id;
  const facts = Object.entries(record.facts).map(([name, value]) => html("span", {}, `${name} `, html("b", {}, value)));
  const label = html("span", {}, `${outputs.target} `, html("b", {}, labelText(record)));
  const seen = html("span", {}, "seen before by ", html("b", {}, record.seen));
  byId("about").replaceChildren(label, ...facts, seen);
  byId("reasons").replaceChildren(...[...record.reasons, ...record.flags].map((text) => html("span", { class: "tag" }, text)));
  byId("outputs-shown").replaceChildren(...outputMeters(record));
  drawPaper();
}

/* What the network says, by class, with what the label says beside it. */
function outputMeters(record) {
  if (outputs.kind === "regression") {
    const told = record.labels === null ? "" : `label ${round(record.labels, 1)}`;
    return [html("span", {}, outputs.names[0]), html("span", {}, html("b", {}, round(record.outputs[0], 1))), html("span", {}, ""), html("span", { class: "soft" }, told)];
  }
  return outputs.names.flatMap((name, i) => {
    const share = record.outputs[i], bar = html("span", { class: "bar" }), inner = html("i", {}), half = html("b", {});
    inner.style.width = `${100 * Math.min(Math.max(share, 0), 1)}%`;
    bar.append(inner);
    if (outputs.kind === "multilabel") {
      half.style.left = "50%";
      bar.append(half);
    }
    const says = record.decided.includes(name), labelled = Array.isArray(record.labels) && record.labels.includes(name);
    const told = record.labels === null ? (says ? "called" : "") : says && labelled ? "called, labelled" : says ? "called, not labelled" : labelled ? "labelled, not called" : "";
    return [html("span", {}, name), bar, html("span", { class: "n" }, round(share)), html("span", { class: "soft" }, told)];
  });
}

function drawPaper() {
  const { record } = shown;
  shown.paper = new Paper(record, byId("layout").value);
  byId("time").replaceChildren(shown.paper.svg);
  byId("time").setAttribute("aria-valuemax", round(shown.paper.shown));
  const rest = record.signal && record.duration > shown.paper.shown + 0.05 ? ` First ${round(shown.paper.shown, 0)} of ${round(record.duration, 0)} s.` : "";
  const follow = record.signal && record.derived.length ? ` ${record.derived.join(", ")} follow from I and II.` : "";
  byId("scale").textContent = record.signal
    ? `25 mm/s, 10 mm/mV, drawn at ${round(record.rate, 0)} Hz.${rest}${follow}`
    : "The archive does not hold this recording's signal any more.";
  drawChips();
  shown.paper.show(shown.only);
  moveTo(shown.seconds);
}

function drawChips() {
  const { record } = shown, seconds = new Map();
  record.clusters.forEach((cluster, i) => seconds.set(cluster, (seconds.get(cluster) ?? 0) + record.edges[i + 1] - record.edges[i]));
  const whole = [...seconds.values()].reduce((sum, one) => sum + one, 0);
  const chips = [...seconds].sort((a, b) => b[1] - a[1]).map(([cluster, spent]) => {
    const pressed = String(cluster === shown.only);
    const chip = html("button", { type: "button", class: "chip", "aria-pressed": pressed, title: `show ${titled(cluster)} alone` },
      swatch(cluster), nameOf(cluster) ? html("span", {}, nameOf(cluster)) : null, html("span", { class: "soft" }, `${round((100 * spent) / whole, 1)} %`));
    chip.addEventListener("click", () => {
      shown.only = shown.only === cluster ? null : cluster;
      for (const other of byId("chips").children) other.setAttribute("aria-pressed", String(other === chip && shown.only !== null));
      shown.paper.show(shown.only);
    });
    return chip;
  });
  byId("chips").replaceChildren(...chips);
}

function moveTo(seconds) {
  const { paper } = shown;
  shown.seconds = Math.min(Math.max(seconds, 0), paper.shown);
  const { segment, entropy } = paper.moveCursor(shown.seconds);
  const where = segment ? titled(segment.cluster) : "not explained here";
  const parts = [html("b", {}, `${round(shown.seconds)} s`)];
  if (segment) parts.push(html("span", {}, swatch(segment.cluster), ` ${nameOf(segment.cluster) || `cluster ${segment.cluster}`}`));
  else parts.push(html("span", {}, where));
  if (segment) parts.push(html("span", {}, `from ${round(segment.whole[0])} to ${round(segment.whole[1])} s`));
  if (entropy !== null) parts.push(html("span", {}, `entropy ${round(entropy)}`));
  byId("readout").replaceChildren(...parts);
  byId("time").setAttribute("aria-valuenow", round(shown.seconds));
  byId("time").setAttribute("aria-valuetext", `${round(shown.seconds)} seconds, ${where}${entropy === null ? "" : `, entropy ${round(entropy)}`}`);
}

function walkTime(event) {
  const edges = shown.record.edges, now = shown.seconds;
  const steps = {
    ArrowRight: () => (event.shiftKey ? edges.find((edge) => edge > now + 1e-6) ?? now : now + STEP_S),
    ArrowLeft: () => (event.shiftKey ? edges.findLast((edge) => edge < now - 1e-6) ?? now : now - STEP_S),
    PageDown: () => now + 1,
    PageUp: () => now - 1,
    Home: () => 0,
    End: () => shown.paper.shown,
  };
  if (!(event.key in steps)) return;
  event.preventDefault();
  moveTo(steps[event.key]());
}

function walkList(event) {
  const now = shown.list.indexOf(shown.record), last = shown.list.length - 1;
  const places = { ArrowDown: now + 1, ArrowUp: now - 1, PageDown: now + 10, PageUp: now - 10, Home: 0, End: last };
  if (!(event.key in places) || last < 0) return;
  event.preventDefault();
  choose(Math.min(Math.max(places[event.key], 0), last));
}

/* A table names a recording: all filters go, and it opens above. */
function openRecord(id) {
  for (const filter of ["reason", "class", "search"]) byId(filter).value = "";
  fillList();
  choose(shown.list.findIndex((record) => record.id === id));
  byId("recordings").scrollIntoView();
  byId("time").focus({ preventScroll: true });
}

for (const button of document.querySelectorAll("button.open")) {
  const { record } = button.dataset;
  if (records.some((one) => one.id === record)) button.addEventListener("click", () => openRecord(record));
  else button.disabled = true;
}
if (records.length) {
  for (const id of ["reason", "class", "order"]) byId(id).addEventListener("change", fillList);
  byId("search").addEventListener("input", fillList);
  byId("layout").addEventListener("change", drawPaper);
  byId("list").addEventListener("keydown", walkList);
  byId("time").addEventListener("keydown", walkTime);
  for (const kind of ["pointermove", "pointerdown"]) {
    byId("time").addEventListener(kind, (event) => {
      const seconds = shown.paper.timeAt(event);
      if (seconds !== null) moveTo(seconds);
    });
  }
  document.addEventListener("names", () => {
    drawChips();
    moveTo(shown.seconds);
  });
  fillList();
}
