// What a user of tasks does with the official JavaScript client; prints what it has seen as one JSON object.
import { ApifyClient } from 'apify-client';

const [baseUrl, token] = process.argv.slice(2);
const client = new ApifyClient({ baseUrl, token, maxRetries: 1 });
const seen = {};

const created = await client.tasks().create({
    actId: 'test/echo',
    name: 'javascript',
    options: { memoryMbytes: 256, timeoutSecs: 60 },
    input: { a: 1, b: { c: 1 } },
});
const task = client.task('local/javascript');
seen.sameTask = (await task.get()).id === created.id;
seen.updated = (await task.update({ title: 'A task', options: { memoryMbytes: 512 } })).title;
seen.mergedInput = await task.updateInput({ b: { d: 2 } });
seen.input = await task.getInput();
seen.tasks = (await client.tasks().list({ desc: true })).items.map(({ name }) => name);
seen.webhooks = (await task.webhooks().list()).items;

const run = await task.call({ n: 'ü'.repeat(2000) }, { waitSecs: 30 });
seen.run = [run.status, run.exitCode, run.options.memoryMbytes, run.meta.origin];
seen.items = (await client.dataset(run.defaultDatasetId).listItems()).items.map(({ a, n }) => [a, n.length]);
seen.output = (await client.run(run.id).keyValueStore().getRecord('OUTPUT')).value.b;
seen.missing = (await client.run(run.id).keyValueStore().getRecord('MISSING')) === undefined;
seen.lastRun = (await task.lastRun({ status: 'SUCCEEDED' }).get()).id === run.id;
const started = await task.start(
    { fail: 3 },
    { memory: 128, timeout: 30, maxItems: 5, build: 'latest', waitForFinish: 10, webhooks: [
        { eventTypes: ['ACTOR.RUN.FAILED'], requestUrl: 'http://127.0.0.1:9/none' },
    ] },
);
const { memoryMbytes, timeoutSecs, maxItems } = started.options;
seen.started = [started.status, memoryMbytes, timeoutSecs, maxItems];
seen.failed = (await task.runs().list({ status: 'FAILED' })).items.map(({ id }) => id === started.id);
seen.runs = (await client.runs().list()).total;

const long = await client.actor('test/long').start({ x: 1 });
seen.live = (await client.run(long.id).waitForFinish({ waitSecs: 1 })).status;
seen.message = (await client.run(long.id).update({ statusMessage: 'half way' })).statusMessage;
await client.run(long.id).abort({ gracefully: true });
seen.aborted = (await client.run(long.id).waitForFinish()).status;
seen.log = (await client.log(long.id).get()).includes('going on');
seen.resurrected = (await client.run(long.id).resurrect({ memory: 256 })).options.memoryMbytes;
await client.run(long.id).abort();
await client.run(long.id).waitForFinish();
await client.run(long.id).delete();
seen.deletedRun = (await client.run(long.id).get()) === undefined;

const dataset = client.dataset((await client.datasets().getOrCreate('js-items')).id);
await dataset.pushItems(Array.from({ length: 1100 }, (_, n) => ({ n })));
const page = await dataset.listItems({ offset: 1098, limit: 10 });
seen.page = [page.items, page.total, page.count];
seen.csv = (await dataset.downloadItems('csv', { limit: 2 })).toString().replace('\ufeff', '').trim().split(/\s+/);
seen.itemCount = (await dataset.get()).itemCount;
seen.renamed = (await dataset.update({ name: 'js-renamed' })).name;
await dataset.delete();

const store = client.keyValueStore((await client.keyValueStores().getOrCreate('js-values')).id);
await store.setRecord({ key: 'json', value: { a: 'ü' } });
await store.setRecord({ key: 'bytes', value: Buffer.from([0, 255]), contentType: 'image/png' });
seen.json = (await store.getRecord('json')).value;
seen.bytes = [...(await store.getRecord('bytes', { buffer: true })).value];
seen.exists = [await store.recordExists('json'), await store.recordExists('none')];
seen.keys = (await store.listKeys()).items.map(({ key }) => key);
await store.deleteRecord('json');
await store.delete();

const queue = client.requestQueue((await client.requestQueues().getOrCreate('js-requests')).id, { clientKey: 'me' });
const added = await queue.addRequest({ url: 'http://a.test/0', uniqueKey: '0' });
const batch = Array.from({ length: 40 }, (_, n) => ({ url: `http://a.test/${n}`, uniqueKey: `${n}` }));
seen.batch = (await queue.batchAddRequests(batch)).processedRequests.length;
seen.locked = (await queue.listAndLockHead({ lockSecs: 60, limit: 3 })).items.length;
const request = await queue.getRequest(added.requestId);
await queue.updateRequest({ ...request, handledAt: new Date().toISOString() });
seen.handled = (await queue.get()).handledRequestCount;
seen.requests = (await queue.listRequests()).items.length;
await queue.delete();

seen.user = (await client.user().get()).username;
seen.limits = (await client.user().limits()).limits.maxConcurrentActorJobs;
seen.refused = await client.task(created.id).start({}, { memory: 16384 }).catch(({ statusCode, type }) => [statusCode, type]);
await task.delete();
seen.deletedTask = (await client.task(created.id).get()) === undefined;
console.log(JSON.stringify(seen));
