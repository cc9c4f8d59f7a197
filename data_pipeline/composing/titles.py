"""Invented titles of plain words, none of which says how music sounds."""

_FIRST = """
    Golden Distant Silver Old New Blue Green Red White Open Early Late Little Long Broken
    Hidden Northern Southern Summer Winter Autumn Spring Morning Evening Midnight Paper
    Glass Wooden Stone Iron Cold Wandering Sleeping Rising Falling Second Last First Lost
    Wild Painted Empty Crowded Sunday Monday Friday Rainy Windy Dusty Salt Copper Velvet
"""
_SECOND = """
    Harbour River Garden Street Window Lantern Letter Road Bridge Station Mountain Valley
    Forest Meadow Island Shore Tide Cloud Rain Snow Light Shadow Mirror Door House Kitchen
    Market Train Boat Bicycle Clock Promise Stranger Sister Brother Sailor Baker Gardener
    Teacher Sparrow Swallow Heron Fox Horse Orchard Field Harvest Tower Square Corner
    Staircase Carousel Postcard Journey Return
"""
_PLACE = (
    "at Dawn",
    "at Dusk",
    "by the Sea",
    "in the Rain",
    "after Midnight",
    "under the Bridge",
    "before Winter",
    "in June",
)


def title(rng) -> str:
    """Like "Golden Harbour" or "The Last Train at Dawn"."""
    name = f"{rng.choice(_FIRST.split())} {rng.choice(_SECOND.split())}"
    if rng.random() < 0.25:
        name = f"The {name}"
    if rng.random() < 0.3:
        name = f"{name} {rng.choice(_PLACE)}"
    return name
