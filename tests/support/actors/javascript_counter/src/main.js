// Pushes 1, 2, 3, … up to `count`, and keeps how far it is as its state.
import { Actor } from 'apify';
import { setTimeout as sleep } from 'node:timers/promises';

await Actor.init();
const { count } = await Actor.getInput();
const state = await Actor.useState('STATE', { n: 0 });
await Actor.setStatusMessage('Counting');
while (state.n < count) {
    state.n += 1;
    await Actor.pushData({ n: state.n });
    await sleep(100);
}
await Actor.exit();
