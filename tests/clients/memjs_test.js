// memjs's whole API (binary protocol) against the server on the port that is given.
'use strict';
const assert = require('assert');
const memjs = require('memjs');

async function main() {
  const client = memjs.Client.create(`127.0.0.1:${process.argv[2]}`, { timeout: 10, retries: 1 });
  const value = async (key) => { const found = (await client.get(key)).value; return found && found.toString(); };
  let passed = 0;
  const check = async (name, test) => { await test(); passed += 1; };
  await client.flush();
  await check('set, get, delete', async () => {
    assert.ok(await client.set('key', 'value', { expires: 100 }));
    assert.strictEqual(await value('key'), 'value');
    assert.ok(await client.delete('key'));
    assert.ok(!(await client.delete('key')));
    assert.strictEqual(await value('key'), null);
  });
  await check('add and replace', async () => {
    assert.ok(await client.add('a', '1', {}));
    assert.ok(!(await client.add('a', '2', {})));
    assert.ok(await client.replace('a', '3', {}));
    assert.ok(!(await client.replace('unknown', '3', {})));
    assert.strictEqual(await value('a'), '3');
  });
  await check('append and prepend', async () => {
    assert.ok(await client.append('a', '4'));
    assert.ok(await client.prepend('a', '2'));
    await assert.rejects(client.append('unknown', '4'), /not stored/);
    assert.strictEqual(await value('a'), '342'); // memjs 1.3 sends the opcode of append for a prepend
  });
  await check('counters', async () => {
    assert.strictEqual((await client.increment('n', 5, { initial: 10, expires: 100 })).value, 10);
    assert.strictEqual((await client.increment('n', 5, {})).value, 15);
    assert.strictEqual((await client.decrement('n', 20, {})).value, 0);
  });
  await check('touch', async () => {
    assert.ok(await client.touch('a', 100));
    assert.ok(!(await client.touch('unknown', 100)));
  });
  await check('large and binary values', async () => {
    const large = Buffer.alloc(900000, 7);
    assert.ok(await client.set('large', large, {}));
    assert.ok((await client.get('large')).value.equals(large));
  });
  await check('many at once', async () => {
    await Promise.all([...Array(500).keys()].map((n) => client.set(`many${n}`, `${n}`, {})));
    const found = await Promise.all([...Array(500).keys()].map((n) => value(`many${n}`)));
    found.forEach((text, n) => assert.strictEqual(text, `${n}`));
  });
  await check('stats', async () => {
    const rows = await new Promise((resolve, reject) => client.stats((error, server, stats) => error ? reject(error) : resolve(stats)));
    assert.ok(Number(rows.curr_items) > 500 && rows.version);
    await new Promise((resolve, reject) => client.statsWithKey('settings', (error, server, stats) => error ? reject(error) : resolve(assert.ok(stats.maxbytes))));
    await new Promise((resolve, reject) => client.resetStats((error) => error ? reject(error) : resolve()));
  });
  await check('flush', async () => {
    assert.ok(await client.flush());
    assert.strictEqual(await value('a'), null);
  });
  client.quit();
  console.log(`memjs: ${passed} passed, 0 failed`);
}

main().catch((error) => { console.error(error); process.exit(1); });
