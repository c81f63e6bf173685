// Audio worklets that run the program in; a way for the server's messages into them, and back, out.
//
// A worklet has neither fetch nor sockets nor timers, and only the page can load a module into it. So the page speaks to the
// server for each: it opens a connection, compiles patches where no sound depends on it, and passes everything on. The way
// in is an audio node of ours. Its name is known to those contexts only in which the client has been loaded, that is, the
// program; so trying to make one is how the page finds them.

import { type Connection, connect, inOrder, type Listener } from './connection.ts';
import type { Prepared } from './apply.ts';
import { describe } from './complaints.ts';
import type { ClientMessage, PatchFrame, ServerMessage } from './protocol.ts';

// https://webaudio.github.io/web-audio-api/#AudioWorkletGlobalScope; TypeScript knows the page's half only.
declare class AudioWorkletProcessor {
  readonly port: MessagePort;
}
declare function registerProcessor(name: string, processor: new () => AudioWorkletProcessor): void;

const PROCESSOR = 'hotslot';

/** From the page; the other way it is `ClientMessage`. */
type Relayed =
  | { readonly type: 'opened' | 'closed' }
  | { readonly type: 'received'; readonly message: ServerMessage }
  | { readonly type: 'patched'; readonly patch: Omit<Prepared, 'glue'> };

// ---------------------------------------------------------------------------------------------------- in the worklet

export const isWorklet: boolean = typeof registerProcessor === 'function';

export function connectPage(listener: Listener<Omit<Prepared, 'glue'>>): Connection {
  const ports: MessagePort[] = [];
  const send = (message: ClientMessage): void => ports.at(-1)?.postMessage(message);
  const complain = (text: string): void => send({ type: 'log', level: 'error', text });
  const step = inOrder(complain);
  registerProcessor(
    PROCESSOR,
    class extends AudioWorkletProcessor {
      constructor() {
        super();
        ports.push(this.port);
        this.port.addEventListener('message', ({ data }: MessageEvent<Relayed>) => {
          step(() => {
            if (data.type === 'received') return listener.received(data.message);
            return data.type === 'patched' ? listener.patched(data.patch) : listener[data.type]();
          });
        });
        this.port.addEventListener('messageerror', () => complain('a patch did not reach the worklet'));
        this.port.start();
      }

      /** Never called, as nothing listens to the node; but every processor must have it. */
      process(): boolean {
        return true;
      }
    },
  );
  return { send, close: () => ports.at(-1)?.close() };
}

// -------------------------------------------------------------------------------------------------------- in the page

/** From now on, every worklet in which the program is loaded takes part. `reload`: the page has to, for one of them. */
export function relayWorklets(reload: (message: ServerMessage & { type: 'reload' }) => void): void {
  // Absent where pages are not secure, https://w3c.github.io/webappsec-secure-contexts/.
  if (typeof AudioWorklet === 'undefined') return;
  const Node = AudioWorkletNode;
  const prototype = Object.getPrototypeOf(AudioWorklet.prototype) as Worklet;
  const addModule = Reflect.get(prototype, 'addModule');
  const contexts = new WeakMap<Worklet, BaseAudioContext>();
  const relayed = new WeakSet<BaseAudioContext>();
  /** A node that nobody holds would go, and its port with it. */
  const nodes = new Set<AudioWorkletNode>();

  const relay = (context: BaseAudioContext): void => {
    if (relayed.has(context) || context.state === 'closed') return;
    let node: AudioWorkletNode;
    try {
      node = new Node(context, PROCESSOR, { numberOfOutputs: 0 });
    } catch {
      // The program is not there, or not yet.
      return;
    }
    const { port } = node;
    nodes.add(node);
    relayed.add(context);
    const post = (message: Relayed): void => port.postMessage(message);
    const load = (url: string): Promise<void> => addModule.call(context.audioWorklet, url);
    const connection = connect({
      opened: () => post({ type: 'opened' }),
      closed: () => post({ type: 'closed' }),
      received: (message) => (message.type === 'reload' ? reload(message) : post({ type: 'received', message })),
      patched: async (frame) => {
        try {
          post({ type: 'patched', patch: await compile(frame, load) });
        } catch (error) {
          connection.send({
            type: 'receipt',
            state: frame.header.state,
            applied: false,
            reason: describe(error),
          });
        }
      },
    });
    port.addEventListener('message', ({ data }: MessageEvent<ClientMessage>) => connection.send(data));
    port.start();
    context.addEventListener('statechange', () => {
      if (context.state !== 'closed') return;
      connection.close();
      nodes.delete(node);
    });
  };

  // A context has a worklet as soon as someone asks for it, and a program at the earliest when a module is loaded.
  const asked = Object.getOwnPropertyDescriptor(BaseAudioContext.prototype, 'audioWorklet');
  Object.defineProperty(BaseAudioContext.prototype, 'audioWorklet', {
    ...asked,
    get(this: BaseAudioContext): AudioWorklet {
      const worklet = asked?.get?.call(this) as AudioWorklet;
      contexts.set(worklet, this);
      return worklet;
    },
  });
  prototype.addModule = async function (this: Worklet, ...given) {
    await addModule.apply(this, given);
    const context = contexts.get(this);
    if (context !== undefined) relay(context);
  };
  // When a page loaded its module before this was here.
  globalThis.AudioWorkletNode = new Proxy(Node, {
    construct: (target, given, self) => {
      const node = Reflect.construct(target, given, self) as AudioWorkletNode;
      relay(node.context);
      return node;
    },
  });
}

async function compile(
  { header, module }: PatchFrame,
  load: (url: string) => Promise<void>,
): Promise<Omit<Prepared, 'glue'>> {
  // Settled together, so that neither rejection is left without a handler.
  const [compiled] = await Promise.all([
    WebAssembly.compile(module),
    header.glue === undefined ? undefined : load(`/@hotslot/worklet/${header.state}.js`),
  ]);
  return { header, module: compiled, frame: module.buffer };
}
