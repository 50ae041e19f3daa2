// In the manner of the official JavaScript template: fetch a page, push its headings.
import { Actor, log } from 'apify';
import * as cheerio from 'cheerio';

await Actor.init();

const { url, maxHeadings } = await Actor.getInput();
const state = await Actor.useState('STATE', { headings: 0 });
Actor.on('persistState', () => log.info('Told to persist the state'));

const response = await fetch(url);
const $ = cheerio.load(await response.text());

const headings = [];
$('strong').each((_i, element) => {
    headings.push({ text: $(element).text().trim().slice(0, 100), padding: 'ü'.repeat(1000) });
});
state.headings = Math.min(headings.length, maxHeadings);
log.info('Extracted headings', { url, count: headings.length });
await Actor.pushData(headings.slice(0, maxHeadings));
await Actor.setValue('OUTPUT', { url, headings: state.headings });

const queue = await Actor.openRequestQueue();
await queue.addRequest({ url });
const request = await queue.fetchNextRequest();
await queue.markRequestHandled(request);

await Actor.exit(`Pushed ${state.headings} headings`);
