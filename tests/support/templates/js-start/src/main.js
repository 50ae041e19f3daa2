// Push the headings of one page.
import { Actor } from 'apify';
import * as cheerio from 'cheerio';
import axios from 'axios';

await Actor.init();
const input = await Actor.getInput();
if (!input) throw new Error('Input is missing!');
const response = await axios.get(input.url);
const $ = cheerio.load(response.data);
const headings = [];
$('h1, h2, h3, h4, h5, h6').each((_i, element) => {
    headings.push({ level: $(element).prop('tagName').toLowerCase(), text: $(element).text() });
});
await Actor.pushData(headings);
await Actor.exit();
