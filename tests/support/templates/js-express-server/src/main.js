// Serve a page at the Run's own address, and stop when asked to.
import { Actor } from 'apify';
import express from 'express';

await Actor.init();
const app = express();
app.use(express.json());
app.get('/', (_req, res) => res.send(`Hello from ${Actor.getEnv().actorRunId}`));
app.post('/items', async (req, res) => {
    await Actor.pushData(req.body);
    res.json({ stored: true });
});
app.post('/stop', async (_req, res) => {
    res.json({ stopping: true });
    await Actor.exit('Served');
});
app.listen(Actor.config.get('containerPort'), () => console.log(`Listening at ${Actor.config.get('containerUrl')}`));
