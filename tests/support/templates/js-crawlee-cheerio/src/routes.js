import { createCheerioRouter } from '@crawlee/cheerio';

export const router = createCheerioRouter();

router.addDefaultHandler(async ({ enqueueLinks, request, $, log, pushData }) => {
    await enqueueLinks({ globs: ['http*://**'] });
    const title = $('title').text();
    log.info(title, { url: request.loadedUrl });
    await pushData({ url: request.loadedUrl, title });
});
