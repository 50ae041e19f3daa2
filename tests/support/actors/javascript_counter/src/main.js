// Pushes 1, 2, 3, … and keeps how far it is as its state: its first process until it is migrated, the next one `more`.
import { Actor } from 'apify';
import { setTimeout as sleep } from 'node:timers/promises';

await Actor.init();
const { more } = await Actor.getInput();
const state = await Actor.useState('STATE', { n: 0 });
await Actor.setStatusMessage('Counting');
const last = state.n === 0 ? Infinity : state.n + more;
let isMigrating = false;
let pushing;
// The SDK waits for its listeners before it reboots: nothing is pushed that the saved state does not know of.
Actor.on('migrating', async () => {
    isMigrating = true;
    await pushing;
});
while (state.n < last) {
    if (!isMigrating) {
        state.n += 1;
        pushing = Actor.pushData({ n: state.n });
        await pushing;
    }
    await sleep(20);
}
await Actor.exit();
