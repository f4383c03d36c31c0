// One WebSocket: messages in, requests out. It sends nothing by itself except which panel is
// open, also after a reconnect, and drops requests while it is closed.

const RETRY_MS = [300, 600, 1000, 2000];
export const IMAGE = 1, POSES = 2, PREDICTED = 3, REAL = 4;

export class Connection {
  constructor(handlers) {
    this.handlers = handlers; // message(object), binary(kind, index, number, ageS, bytes), link(state)
    this.tries = 0;
    this.number = 0;
    this.waiting = new Map(); // id -> callback
    this.open();
  }

  get isOpen() { return this.socket.readyState === WebSocket.OPEN; }

  open() {
    const scheme = location.protocol === 'https:' ? 'wss' : 'ws';
    this.socket = new WebSocket(`${scheme}://${location.host}/ws`);
    this.socket.binaryType = 'arraybuffer';
    this.socket.onopen = () => { this.tries = 0; this.handlers.link('open'); };
    this.socket.onmessage = (event) => this.receive(event.data);
    this.socket.onclose = () => {
      for (const done of this.waiting.values()) done({ success: false, message: 'connection lost: the result is unknown' });
      this.waiting.clear();
      this.handlers.link('closed');
      const wait = RETRY_MS[Math.min(this.tries++, RETRY_MS.length - 1)];
      setTimeout(() => this.open(), wait);
    };
  }

  receive(data) {
    if (typeof data !== 'string') {
      const view = new DataView(data);
      this.handlers.binary(view.getUint8(0), view.getUint8(1), view.getUint16(2, true),
        view.getFloat32(4, true), data.slice(8));
      return;
    }
    const message = JSON.parse(data);
    if (message.type === 'answer') {
      const done = this.waiting.get(message.id);
      this.waiting.delete(message.id);
      if (done) done(message);
      else this.handlers.message(message);
    } else this.handlers.message(message);
  }

  // Return false if there is no connection: nothing is kept for later.
  request(name, values = {}, done = () => {}) {
    if (!this.isOpen) {
      done({ success: false, message: 'not sent: no connection' });
      return false;
    }
    const id = ++this.number;
    this.waiting.set(id, done);
    this.socket.send(JSON.stringify({ id, name, ...values }));
    return true;
  }
}
