// Predicted frames above the real ones of the same instants. Only while its panel is open does
// the console subscribe to predicted video, because decoding it costs the policy time.

import { color, fit } from '/static/charts.js';

const MAX_COLUMNS = 40;
const byId = (id) => document.getElementById(id);

export class Imagination {
  constructor() { this.clear(); }

  clear() { this.columns = []; } // of { number, dueMs, predicted, real }

  async add(number, isReal, ageS, bytes) {
    const bitmap = await createImageBitmap(new Blob([bytes], { type: 'image/jpeg' }));
    let column = this.columns.find((each) => each.number === number);
    if (!column && isReal) return;
    if (!column) {
      column = { number, dueMs: performance.now() - 1000 * ageS, predicted: null, real: null };
      this.columns.push(column);
      this.columns.sort((a, b) => a.dueMs - b.dueMs);
      if (this.columns.length > MAX_COLUMNS) this.columns.shift();
    }
    if (isReal) column.real = bitmap;
    else column.predicted = bitmap;
  }

  draw() {
    const complete = this.columns.filter((each) => each.predicted && each.real);
    const last = complete[complete.length - 1];
    this.drawOne(byId('imagined'), last && last.predicted);
    this.drawOne(byId('real'), last && last.real);
    this.drawStrip(byId('strip'));
  }

  drawOne(canvas, bitmap) {
    if (!bitmap) return;
    if (canvas.width !== 2 * bitmap.width) { canvas.width = 2 * bitmap.width; canvas.height = 2 * bitmap.height; }
    canvas.getContext('2d').drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  }

  drawStrip(canvas) {
    const { pen, width, height } = fit(canvas);
    if (!width) return;
    pen.font = '12px Inter, system-ui, sans-serif';
    pen.textBaseline = 'middle';
    pen.fillStyle = color('muted');
    if (!this.columns.length) {
      pen.fillText('waiting for predicted video: the policy sends it about once a second while it runs', 4, height / 2);
      return;
    }
    const shape = this.columns.find((each) => each.predicted).predicted, label = 64;
    const tall = (height - 20) / 2 - 2, wide = tall * (shape.width / shape.height), gap = 4;
    const room = Math.max(1, Math.floor((width - label) / (wide + gap)));
    const now = performance.now();
    pen.fillText('imagined', 0, tall / 2);
    pen.fillText('real', 0, tall + 4 + tall / 2);
    pen.textAlign = 'center';
    this.columns.slice(-room).forEach((column, i) => {
      const x = label + i * (wide + gap), due = (now - column.dueMs) / 1000;
      if (column.predicted) pen.drawImage(column.predicted, x, 0, wide, tall);
      if (column.real) pen.drawImage(column.real, x, tall + 4, wide, tall);
      else {
        pen.strokeStyle = color('line');
        pen.strokeRect(x + 0.5, tall + 4.5, wide - 1, tall - 1);
        pen.fillStyle = color('muted');
        pen.fillText(due < 0 ? 'ahead' : '', x + wide / 2, tall + 4 + tall / 2);
      }
      pen.fillStyle = color('muted');
      pen.fillText(due < 0 ? `+${(-due).toFixed(1)}` : `−${due.toFixed(1)} s`, x + wide / 2, height - 8);
    });
    pen.textAlign = 'left';
  }
}
