// Commands of the operator. Enable and reset ask first; the e-stop never does, works in every tab
// and from every element, and reports when the stack acknowledged it.

const ACKNOWLEDGE_MS = 1000, REPEAT_MS = 400, LOG_LINES = 7;
const byId = (id) => document.getElementById(id);
const CONTROLLED = ['text', 'hold', 'enable', 'disable', 'reset', 'note', 'start', 'keep-success', 'keep-failure', 'discard', 'next', 'checkpoint', 'reload'];

export class Controls {
  constructor(connection) {
    this.connection = connection;
    this.viewer = null;
    this.operator = null;
    this.motion = null;
    this.stop = null; // { sentMs, acknowledgedMs, failed }
    this.bind();
    this.update();
  }

  get isMine() { return this.viewer !== null && this.operator === this.viewer && this.connection.isOpen; }

  bind() {
    byId('estop').addEventListener('pointerdown', () => this.pressEstop());
    byId('estop').addEventListener('click', () => this.pressEstop());
    window.addEventListener('keydown', (event) => {
      if (event.key === 'Escape') { event.preventDefault(); this.pressEstop(); }
    }, { capture: true });
    byId('control').addEventListener('click', () => this.toggleControl());
    byId('instruct').addEventListener('submit', (event) => {
      event.preventDefault();
      const text = byId('text').value.trim();
      if (text) this.command('instruct', { text }, `“${text}”`);
    });
    byId('hold').addEventListener('click', () => this.command('hold', {}, 'stop and hold'));
    byId('enable').addEventListener('click', () => this.confirm('Enable motion?', 'The robot may move at once, at first slowly. Keep clear of it and keep the hardware stop in reach.', 'Enable motion', () => this.command('enable', { confirmed: true }, 'enable')));
    byId('reset').addEventListener('click', () => this.confirm('Release the latched stop?', `${this.motion ? this.motion.reason : ''} Make sure that its cause is gone. The robot stays disabled or at rest until it is enabled and gets an instruction.`, 'Reset', () => this.command('reset', { confirmed: true }, 'reset')));
    byId('disable').addEventListener('click', () => this.command('disable', {}, 'disable'));
    byId('start').addEventListener('click', () => this.command('start_episode', {}, 'record'));
    const end = (keep, success, words) => this.command('stop_episode', { keep, success, note: byId('note').value.trim() }, words, () => { byId('note').value = ''; });
    byId('keep-success').addEventListener('click', () => end(true, true, 'keep as success'));
    byId('keep-failure').addEventListener('click', () => end(true, false, 'keep as failure'));
    byId('discard').addEventListener('click', () => this.confirm('Discard this episode?', 'What was recorded since its start is deleted.', 'Discard', () => end(false, false, 'discard')));
    byId('next').addEventListener('click', () => this.command('next_scene', {}, 'next scene'));
    byId('reload').addEventListener('click', () => {
      const checkpoint = byId('checkpoint').value.trim();
      this.confirm('Restart the workers?', `The robot holds meanwhile. Checkpoint: ${checkpoint || 'as it is now'}.`, 'Reload', () => this.command('reload', { checkpoint }, 'reload'));
    });
  }

  command(name, values, words, onSuccess = () => {}) {
    this.connection.request(name, values, ({ success, message }) => {
      this.log(`${words}: ${message}`, success);
      if (success) onSuccess();
    });
  }

  confirm(title, text, action, then) {
    const dialog = byId('confirm');
    byId('confirm-title').textContent = title;
    byId('confirm-text').textContent = text;
    byId('confirm-yes').textContent = action;
    dialog.returnValue = '';
    dialog.onclose = () => { if (dialog.returnValue === 'yes' && this.isMine) then(); };
    dialog.showModal();
  }

  pressEstop() {
    if (byId('confirm').open) byId('confirm').close('no');
    const now = performance.now();
    if (this.stop && !this.stop.failed && now - this.stop.sentMs < REPEAT_MS) return;
    this.stop = { sentMs: now, acknowledgedMs: null, failed: '' };
    const sent = this.connection.request('estop', {}, ({ success, message }) => this.log(`e-stop: ${message}`, success));
    if (!sent) this.stop.failed = 'NOT SENT: no connection';
    this.showEstop();
    setTimeout(() => this.showEstop(), ACKNOWLEDGE_MS + 50);
  }

  showEstop() {
    const button = byId('estop'), note = byId('estop-note'), latched = Boolean(this.motion && this.motion.estop) && this.connection.isOpen;
    if (this.stop && latched && this.stop.acknowledgedMs === null && !this.stop.failed) this.stop.acknowledgedMs = performance.now();
    const waits = this.stop && this.stop.acknowledgedMs === null;
    button.classList.toggle('latched', latched);
    button.classList.toggle('waiting', Boolean(waits) && !latched);
    button.querySelector('b').textContent = latched ? 'STOPPED' : 'E-STOP';
    if (!this.connection.isOpen) note.textContent = this.stop && this.stop.failed ? `${this.stop.failed} · use the hardware stop` : 'no connection · use the hardware stop';
    else if (latched) note.textContent = this.stop && this.stop.acknowledgedMs !== null ? `acknowledged after ${((this.stop.acknowledgedMs - this.stop.sentMs) / 1000).toFixed(2)} s` : 'latched · press for another';
    else if (waits) note.textContent = performance.now() - this.stop.sentMs > ACKNOWLEDGE_MS ? 'NOT ACKNOWLEDGED · use the hardware stop' : 'sent …';
    else { note.textContent = 'software · key Esc'; }
    if (!latched && this.stop && this.stop.acknowledgedMs !== null) this.stop = null; // released
  }

  toggleControl() {
    if (this.isMine) this.connection.request('release_control', {}, ({ message }) => this.log(message, true));
    else if (this.operator !== null && this.connection.isOpen) {
      const dialog = byId('confirm');
      byId('confirm-title').textContent = 'Take control from another tab?';
      byId('confirm-text').textContent = `Tab ${this.operator} is in control. It becomes view-only.`;
      byId('confirm-yes').textContent = 'Take control';
      dialog.returnValue = '';
      dialog.onclose = () => { if (dialog.returnValue === 'yes') this.takeControl(true); };
      dialog.showModal();
    } else this.takeControl(false);
  }

  takeControl(force) {
    this.connection.request('take_control', { force }, ({ success, message }) => this.log(message, success));
  }

  setState(state) {
    this.operator = state.operator;
    this.motion = state.motion;
    this.episode = state.episode;
    this.showEstop();
    this.update();
  }

  update() {
    const open = this.connection.isOpen;
    document.body.classList.toggle('view-only', !this.isMine);
    for (const id of CONTROLLED) byId(id).disabled = !this.isMine;
    byId('instruct').querySelector('[type=submit]').disabled = !this.isMine;
    for (const chip of byId('suggestions').children) chip.disabled = !this.isMine;
    if (this.isMine) {
      const recording = Boolean(this.episode && this.episode.state === 'RECORDING');
      for (const id of ['keep-success', 'keep-failure', 'discard']) byId(id).disabled = !recording;
      byId('start').disabled = recording || !this.episode;
      byId('note').disabled = !recording;
    }
    const button = byId('control');
    button.disabled = !open || this.viewer === null;
    button.classList.toggle('mine', this.isMine);
    button.textContent = this.isMine ? 'In control ✓' : this.operator === null ? 'Take control' : `Tab ${this.operator} controls`;
    button.title = this.isMine ? 'give control back' : 'only one tab commands; every tab can stop';
  }

  log(text, success) {
    const line = document.createElement('li');
    line.className = success ? 'good' : 'bad';
    line.textContent = text;
    const list = byId('log');
    list.append(line);
    while (list.children.length > LOG_LINES) list.firstChild.remove();
  }
}
