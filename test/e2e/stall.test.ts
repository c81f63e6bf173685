// Edit → see, in a native program that keeps all it has in one thread: what all kinds of programs show.
import { afterAll, afterEach, beforeAll } from 'vitest';
import { testEdits } from '../targets.ts';
import { Stall } from './stall.ts';

const stall = new Stall();

beforeAll(() => stall.start());
afterEach(() => stall.server.restore());
afterAll(() => stall.stop());

testEdits(stall);
