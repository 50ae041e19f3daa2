// In the manner of the official Crawlee + Cheerio template.
import { CheerioCrawler } from '@crawlee/cheerio';
import { Actor } from 'apify';

await Actor.init();

const { startUrls = [], maxRequestsPerCrawl = 100 } = (await Actor.getInput()) ?? {};

const crawler = new CheerioCrawler({
    maxRequestsPerCrawl,
    requestHandler: async ({ enqueueLinks, request, $, log }) => {
        log.info('enqueueing new URLs');
        await enqueueLinks({ globs: ['http://*/demo/**'], limit: 5 });
        const title = $('title').text();
        log.info(title, { url: request.loadedUrl });
        await Actor.pushData({ url: request.loadedUrl, title });
    },
});

await crawler.run(startUrls);

await Actor.exit();
