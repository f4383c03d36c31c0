// Predicted frames above the real ones of the same instants. Only while its panel is open does
// the console subscribe to predicted video, because decoding it costs the policy time.
//
// A model of several cameras predicts one canvas of all views. Where its layout is known, the
// canvases are cut apart: each imagined view stands above its real camera.

import { color, fit } from '/static/charts.js';

const MAX_COLUMNS = 40, WHOLE = [0, 0, 1, 1];
const byId = (id) => document.getElementById(id);

export class Imagination {
  constructor() {
    this.names = []; // of the cameras
    this.aspects = []; // of their images, width / height
    this.tiles = null; // [left, top, width, height] of each camera, shares of a canvas
    this.chosen = 0; // view of the strip
    this.clear();
  }

  clear() { this.columns = []; } // of { number, dueMs, predicted, real }

  // Views of the cameras by the layout of the model, or one composite where it is not known.
  setViews(names, tiles) {
    const shown = tiles ? names : ['all cameras'];
    this.tiles = tiles;
    if (JSON.stringify(shown) === JSON.stringify(this.names)) return;
    this.names = shown;
    this.chosen = 0;
    byId('views').replaceChildren(...shown.map((name, i) => {
      const view = document.createElement('button'), caption = document.createElement('span');
      view.type = 'button';
      view.className = 'view';
      caption.textContent = name.replaceAll('_', ' ');
      view.title = 'show its last seconds';
      view.append(caption, document.createElement('canvas'), document.createElement('canvas'));
      view.addEventListener('click', () => { this.chosen = i; this.draw(); });
      return view;
    }));
  }

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
    [...byId('views').children].forEach((view, i) => {
      view.setAttribute('aria-pressed', String(i === this.chosen && this.names.length > 1));
      if (!last) return;
      this.drawView(view.children[1], last.predicted, i);
      this.drawView(view.children[2], last.real, i);
    });
    this.drawStrip(byId('strip'));
  }

  // Part of a canvas, in pixels of its bitmap.
  cut(bitmap, view) {
    const [left, top, width, height] = this.tiles ? this.tiles[view] : WHOLE;
    return [left * bitmap.width, top * bitmap.height, width * bitmap.width, height * bitmap.height];
  }

  // Width / height as the camera sees it: the model squeezes its views.
  aspect(bitmap, view) {
    const [, , width, height] = this.cut(bitmap, view);
    return (this.tiles && this.aspects[view]) || width / height;
  }

  drawView(canvas, bitmap, view) {
    const height = 240, width = Math.round(height * this.aspect(bitmap, view));
    if (canvas.width !== width) { canvas.width = width; canvas.height = height; }
    canvas.getContext('2d').drawImage(bitmap, ...this.cut(bitmap, view), 0, 0, width, height);
  }

  drawStrip(canvas) {
    const { pen, width, height } = fit(canvas);
    if (!width) return;
    pen.font = '12.5px Inter, system-ui, sans-serif';
    pen.textBaseline = 'middle';
    pen.fillStyle = color('muted');
    const first = this.columns.find((each) => each.predicted);
    if (!first) {
      pen.fillText('waiting for predicted video:', 4, height / 2 - 10);
      pen.fillText('about once a second while the policy runs', 4, height / 2 + 10);
      return;
    }
    const view = Math.min(this.chosen, this.names.length - 1), gap = 4;
    const tall = (height - 20) / 2 - 2, wide = tall * this.aspect(first.predicted, view);
    const room = Math.max(1, Math.floor((width + gap) / (wide + gap)));
    const now = performance.now();
    pen.textAlign = 'center';
    this.columns.slice(-room).forEach((column, i) => {
      const x = i * (wide + gap), due = (now - column.dueMs) / 1000;
      if (column.predicted) pen.drawImage(column.predicted, ...this.cut(column.predicted, view), x, 0, wide, tall);
      if (column.real) pen.drawImage(column.real, ...this.cut(column.real, view), x, tall + 4, wide, tall);
      else {
        pen.strokeStyle = color('line');
        pen.strokeRect(x + 0.5, tall + 4.5, wide - 1, tall - 1);
        pen.fillStyle = color('muted');
        pen.fillText(due < 0 ? 'ahead' : '', x + wide / 2, tall + 4 + tall / 2);
      }
      pen.fillStyle = color('muted');
      pen.fillText(due < 0 ? `+${(-due).toFixed(1)} s` : `−${due.toFixed(1)} s`, x + wide / 2, height - 8);
    });
    pen.textAlign = 'left';
  }
}
