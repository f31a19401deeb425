/* The atlas: clusters in an order that is asked for, and names that can be given and saved. */
const cards = [...document.querySelectorAll(".card")];
const given = { ...clusters.names };

function orderCards() {
  const by = byId("atlas-order").value;
  const value = (card) => Number(card.dataset[by] || -1);
  const sorted = [...cards].sort((a, b) => (by === "cluster" ? value(a) - value(b) : value(b) - value(a)));
  byId("cards").append(...sorted);
}

function changed() {
  return Object.keys(clusters.colours).filter((cluster) => nameOf(cluster) !== (given[cluster] ?? ""));
}

function tellChanges() {
  const n = changed().length;
  byId("saved").textContent = n ? `${n} ${n === 1 ? "name" : "names"} not saved yet` : "";
  byId("save").disabled = !n;
}

function saveNames() {
  const kept = Object.fromEntries(Object.entries(clusters.names).filter(([, name]) => name));
  const text = JSON.stringify({ model_id: clusters.model_id, names: kept }, null, 2) + "\n";
  const link = html("a", { href: URL.createObjectURL(new Blob([text], { type: "application/json" })), download: "names.json" });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  Object.keys(given).forEach((cluster) => delete given[cluster]);
  Object.assign(given, kept);
  tellChanges();
}

for (const field of document.querySelectorAll(".card input")) {
  field.addEventListener("input", () => {
    clusters.names[field.dataset.cluster] = field.value.trim().replace(/\s+/g, " ");
    tellChanges();
    document.dispatchEvent(new Event("names"));
  });
}
if (cards.length) {
  byId("atlas-order").addEventListener("change", orderCards);
  byId("save").addEventListener("click", saveNames);
  window.addEventListener("beforeunload", (event) => {
    if (changed().length) event.preventDefault();
  });
  tellChanges();
}
