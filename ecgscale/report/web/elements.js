/* Elements and data. Text goes in as text nodes and attributes only: nothing from the data is ever parsed as markup. */
const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value !== null && value !== undefined) node.setAttribute(name, String(value));
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}
const html = (name, attributes, ...children) => fill(document.createElement(name), attributes, children);
const svg = (name, attributes, ...children) => fill(document.createElementNS(SVG, name), attributes, children);
const byId = (id) => document.getElementById(id);
const data = (id) => JSON.parse(byId(id).textContent);

/* Cluster colours and the names that people give; whoever shows a name listens for its change. */
const clusters = data("clusters");
const nameOf = (cluster) => clusters.names[cluster] ?? "";
const titled = (cluster) => (nameOf(cluster) ? `cluster ${cluster}, ${nameOf(cluster)}` : `cluster ${cluster}`);
const colourOf = (cluster) => clusters.colours[cluster];
const inkOn = (cluster) => clusters.inks[cluster];
const swatch = (cluster) => {
  const box = html("span", { class: "swatch" }, String(cluster));
  box.style.background = colourOf(cluster);
  box.style.color = inkOn(cluster);
  return box;
};

/* base64 → bytes, and little-endian int16 samples as millivolts. */
function bytesOf(text) {
  const raw = atob(text);
  const bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  return bytes;
}
function millivoltsOf(record) {
  const view = new DataView(bytesOf(record.signal).buffer);
  const leads = new Map();
  record.leads.forEach((lead, place) => {
    const samples = new Float32Array(record.n);
    for (let i = 0; i < record.n; i++) samples[i] = (view.getInt16(2 * (place * record.n + i), true) * record.uv) / 1000;
    leads.set(lead, samples);
  });
  const one = leads.get("I"), two = leads.get("II");
  const follows = {
    III: (i) => two[i] - one[i],
    aVR: (i) => -(one[i] + two[i]) / 2,
    aVL: (i) => one[i] - two[i] / 2,
    aVF: (i) => two[i] - one[i] / 2,
  };
  for (const lead of record.derived) leads.set(lead, Float32Array.from({ length: record.n }, (_, i) => follows[lead](i)));
  for (const samples of leads.values()) centre(samples);
  return leads;
}
function centre(samples) {
  const middle = Float32Array.from(samples).sort()[samples.length >> 1] ?? 0;
  for (let i = 0; i < samples.length; i++) samples[i] -= middle;
}
