// Header, banners, figures and checks, from the newest state. What came over ROS is set as text,
// never as markup.

const byId = (id) => document.getElementById(id);
const POLICY = { RUNNING: 'ok', IDLE: 'rest', HOLDING: 'rest', STARTING: 'rest', WAITING_OBSERVATION: 'attention', STALE_OBSERVATION: 'attention', ERROR: 'stop' };
const MOTION = { TRACKING: 'ok', FIRST_MOVE: 'ok', HOLDING: 'rest', STOPPING: 'attention', ESTOPPED: 'stop', PROTECTIVE_STOP: 'stop' };
const STALE_S = { policy: 2.5, motion: 1.0, joints: 0.5, sim: 2.0, episode: 3.0, driver: 3.0 }, NODE_SILENT_S = 3.5;
const MAX_CHIPS = 3, CONTACT_MS = 5000;

export function element(tag, className = '', text = '') {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text) made.textContent = text;
  return made;
}

export function formatAge(seconds) {
  if (seconds === null || !Number.isFinite(seconds)) return 'no data';
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  return seconds < 100 ? `${seconds.toFixed(1)} s` : `${Math.round(seconds / 60)} min`;
}

function number(value, digits = 0) { return value === null || value === undefined ? '–' : value.toFixed(digits); }

export class Status {
  constructor() {
    this.state = null;
    this.receivedMs = 0;
    this.isOpen = false;
    this.tiles = new Map();
    this.shown = {};
  }

  set(state) { this.state = state; this.receivedMs = performance.now(); }

  // Age of a block now, s; null without any.
  age(name) {
    const block = this.state && this.state[name];
    if (!block || block.age_s === null) return null;
    return block.age_s + (performance.now() - this.receivedMs) / 1000;
  }

  isStale(name) {
    const age = this.age(name);
    return age === null || age > STALE_S[name];
  }

  render(hello) {
    const { state } = this;
    if (!state) return;
    this.showStates(state);
    this.showBanners(state);
    this.showTiles(state, hello);
    this.showPanels(state);
  }

  showStates(state) {
    for (const [name, table] of [['policy', POLICY], ['motion', MOTION]]) {
      const box = byId(name), block = state[name], stale = this.isStale(name);
      const word = block ? block.state : 'NO STATUS';
      box.dataset.state = stale ? 'unknown' : table[word] || 'unknown';
      box.classList.toggle('long', word.length > 10);
      box.querySelector('b').textContent = word.replaceAll('_', ' ');
      const words = name === 'policy' ? 'Policy' : 'Motion';
      box.querySelector('small').textContent = stale ? `${words} · ${block ? `silent for ${formatAge(this.age(name))}` : 'not heard'}` : words;
    }
    const { policy, motion } = state;
    byId('model').textContent = policy ? policy.model : '';
    const instruction = byId('instruction');
    instruction.textContent = policy && policy.instruction ? policy.instruction : 'no instruction';
    instruction.classList.toggle('none', !(policy && policy.instruction));
    const reasons = [policy && policy.reason, motion && motion.reason].filter(Boolean);
    byId('reason').textContent = [...new Set(reasons)].join(' · ');
    byId('reason').title = reasons.join('\n');
  }

  showBanners(state) {
    const { policy, motion, driver } = state, banners = [];
    const age = this.age('motion');
    if (!this.isOpen) banners.push(['stop', 'DISCONNECTED', `nothing on this page is current; the robot goes on without it. Last message ${formatAge((performance.now() - this.receivedMs) / 1000)} ago`]);
    if (motion && ['ESTOPPED', 'PROTECTIVE_STOP'].includes(motion.state)) banners.push(['stop', motion.state === 'ESTOPPED' ? 'E-STOPPED' : 'PROTECTIVE STOP', motion.reason || 'latched; reset it when the cause is gone']);
    if (driver && driver.fault) banners.push(['stop', 'ROBOT FAULT', driver.fault]);
    if (policy && !policy.trained && policy.model) banners.push(['attention', 'UNTRAINED', `random weights (${policy.model.replace('UNTRAINED ', '')}): the motion has no meaning`]);
    if (motion && motion.dry_run) banners.push(['rest', 'DRY RUN', 'the robot gets nothing: trajectories are only published for viewers']);
    if (this.isOpen && (age === null || age > STALE_S.motion)) banners.push(['attention', 'STALE', age === null ? 'motion_node has not been heard' : `motion_node is silent for ${formatAge(age)}`]);
    for (const { name, words } of this.isOpen ? this.findLostNodes() : []) banners.push(['attention', `${name.toUpperCase()} LOST`, words]);
    const box = byId('banners'), key = JSON.stringify(banners.map((each) => each.slice(0, 2)));
    if (key !== this.shown.banners) {
      this.shown.banners = key;
      box.replaceChildren(...banners.map(([kind, title]) => {
        const line = element('p');
        line.dataset.state = kind;
        line.append(element('b', '', title), element('span'));
        return line;
      }));
    }
    banners.forEach((banner, i) => { box.children[i].lastChild.textContent = banner[2]; });
  }

  // Nodes that no status tells of. They report once a second: silence is an exit or a stop.
  findLostNodes() {
    const sinceS = (performance.now() - this.receivedMs) / 1000, found = [];
    for (const { name, age_s, errors } of this.state.nodes || []) {
      const silentS = age_s === null ? Infinity : age_s + sinceS;
      if (silentS < NODE_SILENT_S || name === 'motion') continue;
      found.push({ name, words: errors[0] || `silent for ${formatAge(silentS)}: what it publishes is stale; the robot goes on without it` });
    }
    return found;
  }

  tile(key, label, value, unit = '', kind = '', block = 'policy', meaning = label) {
    let tile = this.tiles.get(key);
    if (!tile) {
      tile = element('div', 'tile');
      tile.append(element('b'), element('span'));
      this.tiles.set(key, tile);
      byId('tiles').append(tile);
    }
    tile.firstChild.replaceChildren(value, element('small', '', unit));
    tile.lastChild.textContent = label;
    tile.dataset.state = kind;
    const stale = this.isStale(block);
    tile.classList.toggle('stale', stale);
    tile.title = `${meaning}; age ${formatAge(this.age(block))}`;
  }

  showTiles(state, hello) {
    const { policy, motion } = state;
    const total = policy && policy.stages.find((stage) => stage[0] === 'total');
    const cameras = policy ? policy.cameras.map((camera) => camera[1]).filter((age) => age !== null && age >= 0) : [];
    const oldest = cameras.length ? Math.max(...cameras) : null;
    const limit = hello ? 1000 * Math.max(...hello.camera_max_age_s) : Infinity;
    const error = policy && policy.imagination.error >= 0 ? policy.imagination.error : null;
    const high = policy ? policy.imagination.high : -1;
    this.tile('rate', 'chunks / s', number(policy && policy.rate_hz, 1), 'Hz');
    this.tile('latency', total ? `p99 ${number(total[2])} ms` : 'latency', number(total && total[1]), 'ms', '', 'policy', 'latency from observation to chunk: p50, p99');
    this.tile('camera', 'oldest image', number(oldest), 'ms', oldest > limit ? 'attention' : '');
    this.tile('joints', 'joint states', number(policy && policy.joints_age_ms >= 0 ? policy.joints_age_ms : null), 'ms');
    this.tile('rows', 'rows left', number(motion && motion.rows_left), '', '', 'motion');
    this.tile('clamps', 'rows limited', number(motion && motion.clamps), '', '', 'motion');
    this.tile('contacts', 'contacts', number(motion && motion.predicted_collisions), '', this.hasNewContacts(motion) ? 'attention' : '', 'motion', 'plans cut short because parts would have come too near');
    this.tile('error', 'imagination', error === null ? '–' : error.toFixed(2), '', error !== null && high > 0 && error > 1.5 * high ? 'attention' : '', 'policy', 'distance of the predicted block to the real one, in latents');
  }

  // Contacts ahead want attention while they come, not for ever after.
  hasNewContacts(motion) {
    const count = motion ? motion.predicted_collisions : 0, now = performance.now();
    if (this.contacts === undefined || count < this.contacts.count) this.contacts = { count, sinceMs: -Infinity };
    if (count > this.contacts.count) this.contacts = { count, sinceMs: now };
    return now - this.contacts.sinceMs < CONTACT_MS;
  }

  showPanels(state) {
    const { episode, sim, policy, motion } = state;
    byId('episode-state').textContent = !episode ? 'no recorder' : this.isStale('episode') ? `silent for ${formatAge(this.age('episode'))}` : episode.state === 'RECORDING' ? `● ${episode.duration_s.toFixed(0)} s, ${episode.megabytes.toFixed(1)} MB${episode.dropped ? `, ${episode.dropped} lost` : ''}` : episode.state.toLowerCase();
    byId('episode-state').title = episode ? `${episode.name} ${episode.reason}` : 'start the launch with record:=manual';
    byId('simulation').hidden = !sim;
    if (sim) {
      byId('scene-task').textContent = sim.instruction || 'no task';
      byId('scene-state').textContent = sim.success ? '✓ done' : `scene ${sim.episode}, real time ×${number(sim.real_time_factor, 2)}`;
    }
    this.showSuggestions(state);
    if (!byId('tab-checks').hidden) this.showChecks(state);
  }

  showSuggestions({ suggestions, history }) {
    const key = JSON.stringify([suggestions, history]);
    if (key === this.shown.suggestions) return;
    this.shown.suggestions = key;
    const known = [...new Set([...[...history].reverse(), ...suggestions])];
    byId('known').replaceChildren(...known.map((text) => { const option = element('option'); option.value = text; return option; }));
    const chips = [...new Set([...suggestions.slice(0, 1), ...[...history].reverse().slice(0, 2), ...suggestions])].slice(0, MAX_CHIPS);
    byId('suggestions').replaceChildren(...chips.map((text) => {
      const chip = element('button', '', text);
      chip.type = 'button';
      chip.title = text;
      chip.disabled = byId('text').disabled;
      chip.addEventListener('click', () => { byId('text').value = text; byId('text').focus(); });
      return chip;
    }));
  }

  showChecks({ policy, motion, driver, nodes }) {
    const rows = (title, block, entries) => {
      const part = element('div'), list = element('dl');
      const heading = element('h3');
      heading.append(element('span', '', title), element('span', '', formatAge(this.age(block))));
      part.append(heading, list);
      for (const [name, value, isBad] of entries) {
        const data = element('dd', '', String(value));
        if (isBad) data.dataset.state = 'attention';
        list.append(element('dt', '', name), data);
      }
      return part;
    };
    const parts = [];
    if (motion) {
      parts.push(rows('Chunks', 'motion', [
        ['rejected', `${motion.rejected} of ${motion.accepted + motion.rejected}`], ['late / underruns', `${motion.late} / ${motion.underruns}`],
        ['rows limited', motion.clamps], ['age', motion.chunk_age_ms < 0 ? '–' : `${number(motion.chunk_age_ms)} ms`],
        ['blend offset', `${number(motion.blend_offset, 3)} rad`], ['commands lost', motion.commands_lost, motion.commands_lost > 0],
      ]), rows('Share of limits', 'motion', [
        ['velocity', number(motion.velocity_ratio, 2), motion.velocity_ratio > 1.001], ['acceleration', number(motion.acceleration_ratio, 2), motion.acceleration_ratio > 1.001], ['jerk', number(motion.jerk_ratio, 2), motion.jerk_ratio > 1.001],
        ['late ticks', motion.late_ticks], ['loop jitter p99', `${number(motion.jitter_ms, 1)} ms`], ['stops', motion.stops], ['dead-man', motion.deadman_ok ? 'ok' : 'released', !motion.deadman_ok],
      ]));
    }
    if (policy) {
      parts.push(rows('Senses', 'policy', [
        ...policy.cameras.map(([name, age, rate]) => [name.replaceAll('_', ' '), `${number(age)} ms · ${number(rate)} Hz`]),
        ['joint states', `${number(policy.joints_age_ms)} ms`], ['memory', `${policy.memory_blocks} blocks · ${number(100 * policy.memory_fill)} %`],
        ['commits, rebuilt', `${policy.commits}, ${policy.rebuilds}`], ['dropped', policy.dropped_chunks], ['restarts', policy.restarts, policy.restarts > 0],
      ]));
    }
    const off = element('div');
    off.append(element('h3', '', 'Checks that cannot see'));
    const inactive = motion ? motion.inactive_checks : [];
    if (!inactive.length) off.append(element('p', '', 'none: every check has its inputs'));
    for (const [check, reason] of inactive) off.append(element('p', '', `${check}: ${reason}`));
    for (const warning of driver ? driver.warnings : []) off.append(element('p', '', `driver: ${warning}`));
    const lost = this.findLostNodes().map((each) => each.name);
    off.append(element('h3', '', 'Nodes heard'), element('p', '', nodes.map(({ name }) => (lost.includes(name) ? `${name}: lost` : name)).join(', ') || 'none'));
    parts.push(off);
    byId('checks').replaceChildren(...parts);
  }
}
