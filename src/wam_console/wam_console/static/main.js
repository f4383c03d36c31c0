// The page: one connection, and what draws from it.

import { Series, drawLines } from '/static/charts.js';
import { Connection, IMAGE, POSES, PREDICTED, REAL } from '/static/connection.js';
import { Controls } from '/static/controls.js';
import { Imagination } from '/static/imagination.js';
import { Scene3d } from '/static/scene3d.js';
import { Status, element, formatAge } from '/static/status.js';

const SPAN_S = 60, RENDER_MS = 250, CAMERA_STALE_S = 1.0, JOINTS_STALE_S = 0.5, FAR_RAD = 0.1;
const byId = (id) => document.getElementById(id);
const latency = { p50: new Series(SPAN_S), p99: new Series(SPAN_S) };
const error = new Series(SPAN_S);
const status = new Status(), imagination = new Imagination(), cameras = [];
let hello = null, posesReceived = null, commits = null, scene = null, noScene = '';

try { scene = new Scene3d(byId('scene')); } catch (problem) { noScene = `no 3D view: ${problem.message} · `; }

const connection = new Connection({ message: onMessage, binary: onBinary, link: onLink });
const controls = new Controls(connection);

function onLink(state) {
  status.isOpen = state === 'open';
  byId('link').textContent = status.isOpen ? 'connected' : 'disconnected';
  byId('link').className = `link ${status.isOpen ? 'ok' : 'stop'}`;
  document.body.classList.toggle('disconnected', !status.isOpen);
  if (!status.isOpen) { controls.viewer = controls.operator = null; }
  else if (tab === 'imagination') showPredictions(); // commands nothing
  controls.showEstop();
  controls.update();
  render();
}

function onMessage(message) {
  if (message.type === 'hello') setHello(message);
  else if (message.type === 'objects' && scene) scene.setObjects(message.objects);
  else if (message.type === 'answer') controls.log(message.message, message.success);
  else if (message.type === 'state') {
    status.set(message);
    const { policy } = message, now = performance.now() / 1000;
    const total = policy && policy.stages.find((stage) => stage[0] === 'total');
    if (total) { latency.p50.add(now, total[1]); latency.p99.add(now, total[2]); }
    if (policy && policy.imagination.error >= 0 && policy.commits !== commits) error.add(now, policy.imagination.error);
    commits = policy && policy.commits;
    imagination.setViews(hello.cameras, message.views);
    controls.setState(message);
    document.body.dataset.ready = 'true';
  }
}

function setHello(message) {
  hello = message;
  controls.viewer = message.viewer;
  const whose = message.namespace ? `${message.namespace}: ` : '';
  byId('robot').textContent = whose + message.title.replace(/ \(.*| with .*/, '');
  byId('robot').title = message.title;
  document.title = `${whose}${message.robot}: operator's page`;
  if (scene) scene.setScene(message.scene);
  cameras.length = 0;
  byId('cameras').replaceChildren(...message.cameras.map((name) => {
    const figure = element('figure', 'camera stale'), canvas = element('canvas'), caption = element('figcaption'), age = element('span', 'age', 'no image');
    caption.append(element('span', '', name.replaceAll('_', ' ')), age);
    figure.append(canvas, caption);
    cameras.push({ figure, canvas, age, ageS: null, receivedMs: 0 });
    return figure;
  }));
  byId('joints').replaceChildren(...message.joints.map((joint) => {
    const line = element('div', 'joint'), range = element('div', 'range');
    range.append(element('em'), element('i'));
    line.append(element('span', 'name', joint.name.replace(/^idx\d+_/, '').replaceAll('_', ' ')), range, element('b'));
    return line;
  }));
  byId('joints').style.gridTemplateRows = `repeat(${Math.ceil(message.joints.length / 2)}, auto)`;
}

function onBinary(kind, index, number, ageS, bytes) {
  if (kind === IMAGE) showImage(index, ageS, bytes);
  else if (kind === POSES) setPoses(ageS, bytes);
  else if (kind === PREDICTED || kind === REAL) imagination.add(number, kind === REAL, ageS, bytes);
}

async function showImage(index, ageS, bytes) {
  const camera = cameras[index];
  if (!camera || document.hidden) return;
  const bitmap = await createImageBitmap(new Blob([bytes], { type: 'image/jpeg' }));
  if (camera.canvas.width !== bitmap.width || camera.canvas.height !== bitmap.height) {
    camera.canvas.width = bitmap.width;
    camera.canvas.height = bitmap.height;
  }
  camera.canvas.getContext('2d').drawImage(bitmap, 0, 0);
  bitmap.close();
  imagination.aspects[index] = camera.canvas.width / camera.canvas.height;
  Object.assign(camera, { ageS, receivedMs: performance.now() });
}

function setPoses(ageS, bytes) {
  posesReceived = { ageS, receivedMs: performance.now() };
  if (!scene || !hello) return;
  const head = new DataView(bytes), count = head.getUint8(0), hasGhost = head.getUint8(1), tools = head.getUint8(2), rows = head.getUint8(3);
  const values = new Float32Array(bytes, 8);
  const size = 7 * count;
  scene.setPoses(values.slice(0, size), hasGhost ? values.slice(size, 2 * size) : null,
    values.slice(hasGhost ? 2 * size : size), tools, rows, head.getFloat32(4, true));
}

function render() {
  status.render(hello);
  controls.showEstop();
  const now = performance.now();
  for (const camera of cameras) {
    const age = camera.ageS === null ? null : camera.ageS + (now - camera.receivedMs) / 1000;
    camera.age.textContent = age === null ? 'no image' : formatAge(age);
    camera.figure.classList.toggle('stale', age === null || !(age < CAMERA_STALE_S));
  }
  const age = posesReceived ? posesReceived.ageS + (now - posesReceived.receivedMs) / 1000 : NaN;
  const stale = !(age < JOINTS_STALE_S);
  byId('scene').parentElement.classList.toggle('stale', stale);
  byId('scene-age').textContent = noScene + (Number.isFinite(age) ? `joints ${formatAge(age)} old` : 'no joint states');
  if (scene) { scene.setStale(stale); if (stale) scene.requestDraw(); }
  drawCharts(now / 1000);
  showJoints();
  if (tab === 'imagination') imagination.draw();
}

function drawCharts(nowS) {
  const policy = status.state && status.state.policy;
  const figures = policy ? policy.imagination : { low: -1, high: -1 };
  const band = figures.high > 0 ? [figures.low, figures.high] : null;
  const key = error.last === null ? 'not yet' : `${error.last.toFixed(2)}${band ? ` (${band[0].toFixed(2)}–${band[1].toFixed(2)})` : ''}`;
  const dotColor = (value) => (band && value > 1.5 * band[1] ? 'attention' : 'series');
  const options = { spanS: SPAN_S, band, dots: true, decimals: 1, minTop: 0.5 };
  if (tab === 'overview') {
    drawLines(byId('latency'), nowS, [{ series: latency.p99, color: 'faint', width: 1.5 }, { series: latency.p50, color: 'series' }], { spanS: SPAN_S, minTop: 50 });
    byId('latency-key').textContent = latency.p50.last === null ? '' : `p50 ${latency.p50.last.toFixed(0)}, p99 ${latency.p99.last.toFixed(0)}`;
    drawLines(byId('error'), nowS, [{ series: error, color: 'series', dotColor }], options);
    byId('error-key').textContent = key;
    showStages(policy ? policy.stages.filter((stage) => stage[0] !== 'total') : []);
  } else if (tab === 'imagination') {
    drawLines(byId('error-2'), nowS, [{ series: error, color: 'series', dotColor }], options);
    byId('error-key-2').textContent = key;
  }
}

function showStages(stages) {
  const box = byId('stages'), most = Math.max(1, ...stages.map((stage) => stage[1] || 0));
  const shown = stages.filter((stage) => stage[1] !== null).sort((a, b) => b[1] - a[1]).slice(0, 8);
  while (box.children.length > shown.length) box.lastChild.remove();
  while (box.children.length < shown.length) {
    const line = element('div', 'stage');
    line.append(element('span'), element('i'), element('b'));
    box.append(line);
  }
  shown.forEach(([name, p50], i) => {
    const [label, bar, value] = box.children[i].children;
    label.textContent = name.replaceAll('_', ' ');
    bar.style.width = `${(100 * p50) / most}%`;
    value.textContent = p50 < 10 ? p50.toFixed(1) : p50.toFixed(0);
  });
}

function showJoints() {
  if (tab !== 'joints' || !hello || !status.state) return;
  const { values } = status.state.joints;
  byId('tab-joints').classList.toggle('stale', status.isStale('joints'));
  hello.joints.forEach(({ lower, upper }, i) => {
    const line = byId('joints').children[i], [measured, target] = values[i], [ring, mark] = line.children[1].children;
    const share = (value) => `${Math.min(100, Math.max(0, (100 * (value - lower)) / (upper - lower)))}%`;
    mark.hidden = measured === null; ring.hidden = target === null;
    if (measured !== null) mark.style.left = share(measured);
    if (target !== null) ring.style.left = share(target);
    line.lastChild.textContent = measured === null ? '–' : measured.toFixed(3);
    line.classList.toggle('far', measured !== null && target !== null && Math.abs(measured - target) > FAR_RAD);
  });
}

// tabs, theme

let tab = 'overview';

function showPredictions() { connection.request('show_predictions', { shown: tab === 'imagination' }); }

function openTab(name) {
  const before = tab;
  tab = name;
  for (const button of byId('tabs').children) button.setAttribute('aria-selected', String(button.dataset.tab === name));
  for (const part of ['overview', 'imagination', 'joints', 'checks']) byId(`tab-${part}`).hidden = part !== name;
  if ((before === 'imagination') !== (name === 'imagination')) { imagination.clear(); if (connection.isOpen) showPredictions(); }
  render();
}

for (const button of byId('tabs').children) button.addEventListener('click', () => openTab(button.dataset.tab));

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  if (scene) scene.requestDraw();
  render();
}

const stored = localStorage.getItem('theme');
byId('theme').addEventListener('click', () => {
  const next = document.documentElement.dataset.theme === 'dark' ? 'light' : 'dark';
  localStorage.setItem('theme', next);
  setTheme(next);
});
setTheme(stored || (matchMedia('(prefers-color-scheme: light)').matches ? 'light' : 'dark'));
openTab('overview');
setInterval(render, RENDER_MS);
