import init, { work } from './pkg/raytrace.js';

addEventListener('message', async ({ data: { module, memory, worker } }) => {
  await init({ module_or_path: module, memory });
  postMessage('ready');
  work(worker);
});
