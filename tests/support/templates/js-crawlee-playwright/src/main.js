// Crawl from the start URLs with a browser; push the title of each page.
import { PlaywrightCrawler } from '@crawlee/playwright';
import { Actor } from 'apify';

await Actor.init();
const { startUrls = [], proxyConfiguration: proxyInput } = (await Actor.getInput()) ?? {};
const proxyConfiguration = await Actor.createProxyConfiguration(proxyInput);
const crawler = new PlaywrightCrawler({
    proxyConfiguration,
    maxRequestsPerCrawl: 3,
    async requestHandler({ enqueueLinks, request, page, pushData }) {
        await enqueueLinks();
        await pushData({ url: request.loadedUrl, title: await page.title() });
    },
});
await crawler.run(startUrls);
await Actor.exit();
