// Source files outside of all package folders: an edit there is an edit like any other, from the first one on.
import { afterEach, expect, test } from 'vitest';
import { copyFerry, DEPTH, type Ferry, MAIN, openFerry, SEA } from './ferry.ts';

let ferry: Ferry | undefined;
afterEach(async () => {
  await ferry?.server.restore();
  await ferry?.server.close();
});

test('a module and an included text elsewhere, also at a start that takes up the last one', async () => {
  const directory = copyFerry();
  for (const start of [1, 2]) {
    ferry = await openFerry(directory);
    const { server } = ferry;
    expect(await ferry.ask()).toMatchObject({ trip: 0, sea: 'calm-12' });
    expect(await server.edit(SEA, 'calm-{}', 'rough-{}')).toMatchObject({ event: 'patch' });
    expect(await server.write({ [DEPTH]: `${start}0` })).toMatchObject({ event: 'patch' });
    expect(await ferry.ask()).toMatchObject({ trip: 1, sea: `rough-${start}0` });
    await server.restore();
    expect(await server.close()).toBe(130);
  }
});

test('a file that an edit names before it is there', async () => {
  ferry = await openFerry();
  const { server } = ferry;
  const named = server.edited(MAIN, 'static TRIPS', '#[path = "../../charts/wind.rs"]\nmod wind;\n\nstatic TRIPS');
  const used = named.replace('"bow-0"', 'wind::wind()');
  expect(await server.write({ [MAIN]: used })).toMatchObject({ event: 'failed' });
  const wind = 'charts/wind.rs';
  const text = (word: string): string => `pub fn wind() -> &'static str {\n    "${word}"\n}\n`;
  expect(await server.write({ [wind]: text('bow-west') })).toMatchObject({ event: 'patch' });
  expect(await ferry.ask()).toMatchObject({ trip: 0, bow: 'bow-west' });
  expect(await server.write({ [wind]: text('bow-east') })).toMatchObject({ event: 'patch' });
  expect(await ferry.ask()).toMatchObject({ trip: 1, bow: 'bow-east' });
});
