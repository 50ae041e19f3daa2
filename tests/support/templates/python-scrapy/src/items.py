from scrapy import Field, Item


class TitleItem(Item):
    url = Field()
    title = Field()
