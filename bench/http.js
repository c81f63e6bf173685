// A port of this machine in; answers of the HTTP server there out, all of them over one connection that stays open.
//
// Node's own clients take more of the machine than the servers that are measured here. This one knows what those servers
// write: HTTP/1.1 with a Content-Length.
import { connect } from 'node:net';

export class Connection {
  #socket;
  #waiting = [];
  #received = '';
  #failure;

  /** Resolves when it is open. */
  static open(port) {
    return new Promise((resolve, reject) => {
      const socket = connect(port, '127.0.0.1');
      socket.once('error', reject);
      socket.once('connect', () => resolve(new Connection(socket)));
    });
  }

  constructor(socket) {
    this.#socket = socket;
    socket.setNoDelay(true).setEncoding('latin1');
    socket.on('data', (text) => this.#receive(text));
    socket.on('error', (error) => this.#fail(error));
    socket.on('close', () => this.#fail(new Error('the server closed the connection')));
  }

  get isOpen() {
    return this.#failure === undefined;
  }

  /** The text of the answer. Rejects for any status but 200, and when the connection ends first. */
  get(path) {
    return new Promise((resolve, reject) => {
      if (this.#failure !== undefined) return reject(this.#failure);
      this.#waiting.push({ resolve, reject });
      this.#socket.write(`GET ${path} HTTP/1.1\r\nHost: localhost\r\n\r\n`);
    });
  }

  close() {
    this.#socket.destroy();
  }

  #receive(text) {
    this.#received += text;
    for (;;) {
      const end = this.#received.indexOf('\r\n\r\n');
      if (end < 0) return;
      const head = this.#received.slice(0, end);
      const length = Number(/\r\ncontent-length: (\d+)/i.exec(head)?.[1] ?? 0);
      const start = end + 4;
      if (this.#received.length < start + length) return;
      const body = this.#received.slice(start, start + length);
      this.#received = this.#received.slice(start + length);
      const { resolve, reject } = this.#waiting.shift();
      if (head.startsWith('HTTP/1.1 200 ')) resolve(body);
      else reject(new Error(`${head.split('\r\n', 1)[0]}: ${body}`));
    }
  }

  #fail(error) {
    this.#failure ??= error;
    for (const { reject } of this.#waiting.splice(0)) reject(this.#failure);
  }
}
