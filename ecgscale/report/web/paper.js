/* A recording on ECG paper. The unit is the millimetre: 25 for a second, 10 for a millivolt, true to scale in print. */
const MM_S = 25, MM_MV = 10, LEFT = 15, RIGHT = 7;
const TWELVE = ["I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6"];

/* Rows of cells, each a lead over a stretch of time: the clinical 3×4 with a rhythm strip, or every lead in full. */
function cellsOf(layout, leads, shown) {
  if (layout === "stacked") {
    const there = [...TWELVE.filter((lead) => leads.has(lead)), ...[...leads.keys()].filter((lead) => !TWELVE.includes(lead))];
    return { rowHeight: 19, rows: there.map((lead) => [{ lead, start: 0, stop: shown }]) };
  }
  const rows = [0, 1, 2].map((row) =>
    [0, 1, 2, 3].map((column) => ({
      lead: TWELVE[3 * column + row], start: (column * shown) / 4, stop: ((column + 1) * shown) / 4,
    })));
  const rhythm = ["II", "V1"].find((lead) => leads.has(lead)) ?? leads.keys().next().value;
  return { rowHeight: 29, rows: [...rows, [{ lead: rhythm, start: 0, stop: shown }]] };
}

class Paper {
  constructor(record, layout) {
    this.record = record;
    this.leads = record.signal ? millivoltsOf(record) : new Map();
    this.shown = record.signal ? record.n / record.rate : record.edges.at(-1);
    const { rows, rowHeight } = record.signal ? cellsOf(layout, this.leads, this.shown) : { rows: [], rowHeight: 0 };
    this.rows = rows;
    this.rowHeight = rowHeight;
    this.traces = rows.length * rowHeight;
    this.width = LEFT + this.shown * MM_S + RIGHT;
    this.height = this.traces + 32;
    this.bands = [];
    this.svg = svg("svg", {
      class: "ecg", viewBox: `0 0 ${this.width} ${this.height}`, width: `${this.width}mm`, height: `${this.height}mm`, role: "img",
      "aria-label": `Recording ${record.id}: ${rows.flat().map((cell) => cell.lead).join(", ") || "no signal"}`,
    });
    this.drawPaper();
    this.drawGrid();
    rows.forEach((cells, row) => cells.forEach((cell) => this.drawCell(cell, row)));
    this.svg.append(...this.later);
    this.drawRibbon();
    this.drawEntropy();
    this.drawSeconds();
    this.cursor = svg("g", { class: "cursor" });
    this.svg.append(this.cursor);
  }

  x(seconds) { return LEFT + seconds * MM_S; }

  drawPaper() {
    this.later = [];
    if (!this.traces) return;
    this.svg.append(svg("rect", { class: "paper", x: 0, y: 0, width: this.width, height: this.traces }));
  }

  drawCell(cell, row) {
    const top = row * this.rowHeight, baseline = top + this.rowHeight * 0.58, left = this.x(cell.start);
    for (const segment of this.segmentsIn(cell.start, cell.stop)) {
      const band = svg("rect", {
        class: "band", x: this.x(segment.start), width: (segment.stop - segment.start) * MM_S, y: top + 0.4,
        height: this.rowHeight - 0.8, fill: colourOf(segment.cluster),
      });
      this.bands.push({ band, cluster: segment.cluster });
      this.svg.append(band);
    }
    const samples = this.leads.get(cell.lead);
    this.later.push(svg("text", { class: "lead", x: left + 1.2, y: top + 4.4 }, cell.lead));
    if (cell.start > 0) this.later.push(svg("path", { class: "column", d: `M${left} ${baseline - 3.5}v7` }));
    if (cell.start === 0) {
      this.later.push(svg("path", { class: "trace", d: `M3 ${baseline}h2v${-MM_MV}h5v${MM_MV}h2` }));
    }
    if (!samples) {
      this.later.push(svg("text", { class: "absent", x: left + 14, y: baseline }, "not recorded"));
      return;
    }
    const { rate } = this.record;
    const first = Math.ceil(cell.start * rate), last = Math.min(Math.floor(cell.stop * rate), samples.length - 1);
    let path = "";
    for (let i = first; i <= last; i++) {
      path += `${path ? "L" : "M"}${(LEFT + (i / rate) * MM_S).toFixed(2)} ${(baseline - samples[i] * MM_MV).toFixed(2)}`;
    }
    this.later.push(svg("path", { class: "trace", d: path }));
  }

  drawGrid() {
    const lines = { fine: "", coarse: "" };
    for (let x = 0; x <= this.width; x++) lines[(x - LEFT) % 5 ? "fine" : "coarse"] += `M${x} 0V${this.traces}`;
    for (let y = 0; y <= this.traces; y++) lines[y % 5 ? "fine" : "coarse"] += `M0 ${y}H${this.width}`;
    if (this.traces) this.svg.append(svg("path", { class: "fine", d: lines.fine }), svg("path", { class: "coarse", d: lines.coarse }));
  }

  segmentsIn(start, stop) {
    const { edges, clusters: ids, entropies } = this.record, found = [];
    for (let i = 0; i < ids.length; i++) {
      const from = Math.max(edges[i], start), to = Math.min(edges[i + 1], stop);
      if (to > from) found.push({ start: from, stop: to, cluster: ids[i], entropy: entropies[i], whole: [edges[i], edges[i + 1]] });
    }
    return found;
  }

  drawRibbon() {
    const top = this.traces + 2, group = svg("g", { class: "ribbon" });
    for (const segment of this.segmentsIn(0, this.shown)) {
      const wide = (segment.stop - segment.start) * MM_S, name = String(segment.cluster);
      const band = svg("rect", { x: this.x(segment.start), y: top, width: wide, height: 5, fill: colourOf(segment.cluster) });
      this.bands.push({ band, cluster: segment.cluster });
      group.append(band);
      if (wide > 1.5 * name.length + 0.7) {
        const text = svg("text", { x: this.x(segment.start) + wide / 2, y: top + 3.5 }, name);
        text.style.fill = inkOn(segment.cluster);
        group.append(text);
      }
    }
    this.svg.append(group, svg("text", { class: "label", x: LEFT - 1.5, y: top + 3.6 }, "cluster"));
  }

  entropyAt(seconds) {
    const { curve_start: start, curve_rate: rate } = this.record;
    if (this.curve && seconds >= start) {
      const value = this.curve[Math.min(Math.round((seconds - start) * rate), this.curve.length - 1)];
      return value / 255;
    }
    return this.segmentAt(seconds)?.entropy ?? null;
  }

  drawEntropy() {
    const top = this.traces + 9, high = 13, { record } = this;
    let path = "";
    if (record.curve) {
      this.curve = bytesOf(record.curve);
      const at = (i) => record.curve_start + i / record.curve_rate;
      let last = 0;
      for (let i = 0; i < this.curve.length && at(i) <= this.shown; i++, last = i) {
        path += `L${this.x(at(i)).toFixed(2)} ${(top + high * (1 - this.curve[i] / 255)).toFixed(2)}`;
      }
      path = `M${this.x(at(0))} ${top + high}${path}L${this.x(at(Math.max(last - 1, 0)))} ${top + high}Z`;
    } else {
      for (const segment of this.segmentsIn(0, this.shown)) {
        const y = (top + high * (1 - segment.entropy)).toFixed(2);
        path += `M${this.x(segment.start)} ${top + high}V${y}H${this.x(segment.stop)}V${top + high}Z`;
      }
    }
    this.svg.append(svg("path", { class: record.curve ? "entropy curve" : "entropy", d: path }));
    for (const level of [0, 0.5, 1]) {
      const y = top + high * (1 - level);
      this.svg.append(svg("path", { class: "rule", d: `M${LEFT} ${y}H${this.width - RIGHT}` }));
      this.svg.append(svg("text", { x: this.width - RIGHT + 0.6, y: y + 1 }, String(level)));
    }
    this.svg.append(svg("text", { class: "label", x: LEFT - 1.5, y: top + high / 2 + 1 }, "entropy"));
  }

  drawSeconds() {
    const top = this.traces + 24;
    for (let second = 0; second <= this.shown + 1e-6; second++) {
      const text = svg("text", { x: this.x(second), y: top + 4, "text-anchor": "middle" }, second ? String(second) : "0 s");
      this.svg.append(svg("path", { class: "rule", d: `M${this.x(second)} ${top - 1.6}v1.6` }), text);
    }
  }

  /* Seconds under a point of the screen; null outside the time shown. */
  timeAt(event) {
    const matrix = this.svg.getScreenCTM();
    if (!matrix) return null;
    const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(matrix.inverse());
    const seconds = (point.x - LEFT) / MM_S;
    return seconds >= 0 && seconds <= this.shown ? seconds : null;
  }

  segmentAt(seconds) {
    return this.segmentsIn(0, this.shown).find(({ start, stop }) => seconds >= start && seconds < stop) ?? null;
  }

  /* A line through everything that shows this moment, and a frame around its segment. */
  moveCursor(seconds) {
    const x = this.x(seconds), parts = [];
    this.rows.forEach((cells, row) => {
      const cell = cells.find(({ start, stop }) => seconds >= start && seconds <= stop);
      if (cell) parts.push(svg("line", { x1: x, x2: x, y1: row * this.rowHeight, y2: (row + 1) * this.rowHeight }));
    });
    parts.push(svg("line", { x1: x, x2: x, y1: this.traces + 1, y2: this.traces + 23 }));
    const segment = this.segmentAt(seconds);
    if (segment) {
      const wide = (segment.stop - segment.start) * MM_S;
      parts.push(svg("rect", { x: this.x(segment.start), y: this.traces + 1.6, width: wide, height: 5.8 }));
    }
    const entropy = this.entropyAt(seconds);
    if (entropy !== null) parts.push(svg("circle", { cx: x, cy: this.traces + 9 + 13 * (1 - entropy), r: 0.9 }));
    this.cursor.replaceChildren(...parts);
    return { segment, entropy };
  }

  /* Bands of all other clusters fade; null shows all. */
  show(cluster) {
    for (const one of this.bands) one.band.classList.toggle("off", cluster !== null && one.cluster !== cluster);
  }
}
