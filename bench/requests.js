// A child process. In: a server's port, a path, a rate, and what answers look like. Out: how many requests went well and how long
// the slowest took; and, as soon as it is seen, each new version that the answers tell.
//
// A program of its own rather than one from the registry, because those count bytes and statuses, while here each answer
// must be looked at: on no connection may an older version follow a newer one.
import { Connection } from './http.js';

const { port, path, perSecond, connections, answer } = JSON.parse(process.argv[2]);
const TICK_MS = 1;

const pattern = new RegExp(answer);
const idle = [];
const busy = new Set();
let [sent, answered, failed, dropped, newest] = [0, 0, 0, 0, 0];
let slowestMs = 0;

for (let count = 0; count < connections; count++) idle.push({ client: await Connection.open(port), version: 0 });
const started = performance.now();
const timer = setInterval(() => {
  const due = ((performance.now() - started) / 1000) * perSecond;
  // What could not be sent because all wait for answers is not made up for.
  sent = Math.max(sent, Math.floor(due) - idle.length);
  for (; sent < due && idle.length > 0; sent++) ask(idle.shift());
}, TICK_MS);

process.once('message', async () => {
  clearInterval(timer);
  const seconds = (performance.now() - started) / 1000;
  await Promise.all(busy);
  for (const { client } of idle) client.close();
  process.send({ requests: answered + failed, failed, dropped, slowestMs, seconds });
  process.disconnect();
});

function ask(connection) {
  const asked = answerOf(connection).finally(() => busy.delete(asked));
  busy.add(asked);
}

async function answerOf(connection) {
  const { client } = connection;
  const asked = performance.now();
  try {
    const text = await client.get(path);
    slowestMs = Math.max(slowestMs, performance.now() - asked);
    const version = Number(pattern.exec(text)?.[1] ?? NaN);
    if (!(version >= connection.version)) throw new Error(`after version ${connection.version}: ${text}`);
    answered++;
    connection.version = version;
    idle.push(connection);
    if (version > newest) {
      newest = version;
      process.send({ version });
    }
  } catch (error) {
    failed++;
    process.send({ error: error.message });
    if (client.isOpen) idle.push(connection);
    else {
      dropped++;
      idle.push({ client: await Connection.open(port), version: connection.version });
    }
  }
}
