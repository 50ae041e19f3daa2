// Crawl from the start URLs with Crawlee; push the title of each page.
import { CheerioCrawler } from '@crawlee/cheerio';
import { Actor } from 'apify';

import { router } from './routes.js';

await Actor.init();
const { startUrls = [], proxyConfiguration: proxyInput } = (await Actor.getInput()) ?? {};
const proxyConfiguration = await Actor.createProxyConfiguration({ checkAccess: true, ...proxyInput });
const crawler = new CheerioCrawler({ proxyConfiguration, maxRequestsPerCrawl: 10, requestHandler: router });
await crawler.run(startUrls);
await Actor.exit();
