// The session's own part: what is reported, and tried again, when a stage throws what is no mistake of the user's. The
// stages are stand-ins that fail on demand: real ones have no such bug that is known.
import { afterEach, describe, expect, test } from 'vitest';

import type { Backend, Running } from '../src/backend.ts';
import type { Builder } from '../src/build/builder.ts';
import { DiagnosticError } from '../src/build/diagnostic.ts';
import type { Linker } from '../src/link/linker.ts';
import type { Build, BuildFailure, Edit, Event, Receipt, WasmPatch } from '../src/model.ts';
import { RunningSession } from '../src/session.ts';

type Stage = 'base' | 'update' | 'publish' | 'link' | 'deliver' | 'commit' | 'abandon';

/** Stages that do nothing, and fail where `breaks` says so. */
class Rig {
  readonly events: Event[] = [];
  readonly told: string[] = [];
  readonly breaks = new Map<Stage, Error>();
  /** Builds that were made what runs. */
  published = 0;
  receipt: Receipt = { client: '1', version: 1, applied: true, applyMs: 1 };
  readonly session: RunningSession<WasmPatch>;
  #onEdit!: (edit: Edit) => void;
  #wake: (() => void) | undefined;

  constructor() {
    const build = async (stage: Stage): Promise<Build | BuildFailure> => {
      this.#reach(stage);
      return { kind: 'built', objects: [], archives: [], rustcMs: 1 };
    };
    const builder = {
      watch: async (onEdit: (edit: Edit) => void) => {
        this.#onEdit = onEdit;
        return async () => undefined;
      },
      base: () => build('base'),
      update: () => build('update'),
      release: () => undefined,
      close: async () => undefined,
    } satisfies Partial<Builder>;
    const report = (event: Event): void => {
      this.events.push(event);
      this.#wake?.();
    };
    this.session = new RunningSession({ report }, builder as Partial<Builder> as Builder, async () => this.#backend());
  }

  #backend(): Backend<WasmPatch> {
    let version = 0;
    const linker = {
      remedy: 'reload',
      rehearse: () => undefined,
      link: () => {
        this.#reach('link');
        return { kind: 'patch', draft: {}, warnings: [] };
      },
      patch: () => ({
        patch: { kind: 'wasm', version: version + 1, functions: [], warnings: [], module: new Uint8Array() },
      }),
      commit: () => (version += 1),
      abandon: () => this.#reach('abandon'),
    };
    return {
      url: 'http://here/',
      open: async () => undefined,
      publish: async (_, next): Promise<Running<WasmPatch>> => {
        this.#reach('publish');
        this.published += 1;
        version = next;
        return {
          linker: linker as unknown as Linker<WasmPatch>,
          linkMs: 0,
          replaced: { event: 'reload', reason: 'anew', version: next },
        };
      },
      deliver: async () => {
        this.#reach('deliver');
        return [this.receipt];
      },
      commit: () => this.#reach('commit'),
      abandon: () => undefined,
      nameOf: ({ client }) => client,
      tell: ({ type }) => this.told.push(type),
      close: async () => undefined,
    };
  }

  #reach(stage: Stage): void {
    const error = this.breaks.get(stage);
    if (error !== undefined) throw error;
  }

  /** Saves something; the event that answers it. */
  async save(): Promise<Event> {
    const seen = this.events.length;
    this.#onEdit({ paths: ['/src/lib.rs'], at: performance.now() });
    for (;;) {
      const answer = this.events.slice(seen).find(({ event }) => !['change', 'undo', 'log'].includes(event));
      if (answer !== undefined) return answer;
      await new Promise<void>((resolve) => (this.#wake = resolve));
    }
  }
}

let rig: Rig;
afterEach(() => rig.session.close());

const BUG = new TypeError('out of luck', { cause: new Error('no clover') });
const failed = {
  event: 'failed',
  diagnostics: [
    {
      severity: 'error',
      text: 'bug in hotslot: out of luck',
      notes: [expect.stringMatching(/TypeError: out of luck\n[^]*caused by Error: no clover/)],
      hint: 'The next save tries again.',
    },
  ],
};

describe('a bug', () => {
  test.each(['base', 'publish'] as const)(
    'at the very first %s is reported; the next save tries again',
    async (stage) => {
      rig = new Rig();
      rig.breaks.set(stage, BUG);
      await rig.session.start();
      expect(rig.events).toEqual([failed]);
      expect(rig.told).toEqual(['failed']);
      expect(await rig.save()).toEqual(stage === 'base' ? expect.objectContaining({ event: 'ready' }) : failed);
      rig.breaks.clear();
      if (stage === 'publish') expect(await rig.save()).toMatchObject({ event: 'ready', version: 0 });
      expect(await rig.save()).toMatchObject({ event: 'patch', version: 1 });
      expect(rig.published).toBe(1);
    },
  );

  test.each(['update', 'link'] as const)('at an edit, in %s, leaves what runs to the next patch', async (stage) => {
    rig = new Rig();
    await rig.session.start();
    rig.breaks.set(stage, BUG);
    expect(await rig.save()).toEqual(failed);
    rig.breaks.clear();
    expect(await rig.save()).toMatchObject({ event: 'patch', version: 1 });
    expect(rig.published).toBe(1);
  });

  test.each(['deliver', 'commit', 'abandon'] as const)(
    'while a patch is on its way, in %s, makes the next save start anew: nobody knows what runs',
    async (stage) => {
      rig = new Rig();
      await rig.session.start();
      rig.breaks.set(stage, BUG);
      if (stage === 'abandon') rig.receipt = { client: '1', version: 0, applied: false, reason: 'no' };
      expect(await rig.save()).toEqual(failed);
      rig.breaks.clear();
      expect(await rig.save()).toMatchObject({ event: 'reload', version: 1 });
      expect(rig.published).toBe(2);
      rig.receipt = { client: '1', version: 2, applied: true, applyMs: 1 };
      expect(await rig.save()).toMatchObject({ event: 'patch', version: 2 });
    },
  );

  test('in a restart is reported as well; asked again, it goes on', async () => {
    rig = new Rig();
    await rig.session.start();
    rig.breaks.set('publish', BUG);
    await rig.session.restart();
    expect(rig.events.at(-1)).toEqual(failed);
    rig.breaks.clear();
    await rig.session.restart();
    expect(rig.events.at(-1)).toMatchObject({ event: 'reload', version: 1 });
  });
});

test('a mistake of the user’s that comes out of any stage is no bug', async () => {
  rig = new Rig();
  await rig.session.start();
  const diagnostic = { severity: 'error', text: 'the linker does not want to' } as const;
  rig.breaks.set('link', new DiagnosticError(diagnostic));
  expect(await rig.save()).toEqual({ event: 'failed', diagnostics: [diagnostic] });
  rig.breaks.clear();
  expect(await rig.save()).toMatchObject({ event: 'patch', version: 1 });
});
