"""Styles: the plain word, the tempo, the harmony and the instruments of each, and MMA's grooves.

`STYLES` holds one row a style. `FILES` says which groove files of MMA's library belong to it; a
file that no row names gets a style word made from its own name.
"""

import re
from dataclasses import dataclass

BRASS, REEDS, PIPES = (56, 57, 60), (64, 65, 66, 71), (73, 72, 75)
STRINGS, GUITARS, KEYS = (40, 41, 42, 48), (24, 25, 26), (0, 1, 4)
MALLETS, SYNTHS, VOICES = (11, 12, 13), (80, 81, 82, 84), (52, 53, 85)
ACCORDIONS, FOLK = (21, 22, 23), (105, 110, 22, 40, 73, 75, 25)
JAZZ = (*REEDS, 56, 59, 11, 26, 0, 73)
LATIN = (56, 57, 73, 24, 0, 65, 11)
ROCK = (29, 30, 27, 80, 16, 66)
POP = (0, 4, 25, 27, 73, 66, 80, 81, 48, 52)
BALLAD = (0, 4, 25, 40, 42, 66, 68, 71, 73, 48, 52)
CLUB = (*SYNTHS, 87, 4, 85, 38)
EAST = (68, 104, 110, 73, 40, 15)


@dataclass(frozen=True)
class Style:
    """What a style asks of a piece; `tempo` in felt beats a minute."""

    name: str
    tempo: tuple[int, int]
    flavour: str  # of the chords: plain, pop, jazz, blues or power
    kinds: str  # of the progressions, by weight: a word that stands twice is twice as likely
    leads: tuple[int, ...]  # General MIDI programs that may play the melody
    kits: tuple[int, ...] = (0, 8)
    swing: bool = False
    weight: float = 1.0  # how often it is chosen


_MAJOR, _BOTH = "major", "major major minor"
_JAZZ, _BLUES = "jazz jazz jazz-minor", "blues"
_ROCK = "major minor mixolydian dorian"
_CLUB = "minor minor dorian phrygian major"
STYLES = {
    style.name: style
    for style in (
        Style("rock", (96, 150), "power", _ROCK, ROCK, (0, 8, 16), weight=3),
        Style("fifties rock and roll", (120, 180), "plain", "major blues", (66, 27, 0, 26), (0, 8)),
        Style("soft rock", (84, 120), "pop", _BOTH, POP, (0, 8)),
        Style("jazz rock", (96, 140), "jazz", "dorian jazz mixolydian", (29, 66, 4, 81), (0, 16)),
        Style("slow rock", (60, 90), "plain", _BOTH, ROCK, (8, 16)),
        Style("metal", (110, 180), "power", "minor phrygian dorian", (29, 30, 81), (16,)),
        Style("punk", (150, 190), "power", "major mixolydian", (29, 30), (16,)),
        Style("pop", (90, 132), "pop", "major major minor mixolydian", POP, (0, 8, 24), weight=3),
        Style("pop ballad", (60, 88), "pop", _BOTH, BALLAD, weight=1.5),
        Style("ballad", (56, 88), "pop", _BOTH, BALLAD, weight=2),
        Style("slow ballad in six", (50, 72), "pop", _BOTH, BALLAD, weight=1.5),
        Style("motown", (104, 136), "pop", _BOTH, (66, 56, 4, 16)),
        Style("soul", (80, 120), "pop", "major minor dorian", (66, 65, 4, 56, 16)),
        Style("rhythm and blues", (72, 116), "pop", "minor dorian major", (4, 66, 27, 85)),
        Style("funk", (92, 120), "blues", "dorian mixolydian", (65, 56, 7, 26, 81), (0, 8, 16)),
        Style("disco", (112, 128), "pop", "minor major dorian", (48, 81, 56, 4), (0, 24)),
        Style("hip hop", (76, 104), "pop", "minor dorian phrygian", (4, 11, 73, 80, 85), (24, 25)),
        Style("trip hop", (70, 96), "pop", "minor dorian", (4, 56, 73, 85), (24, 25, 0)),
        Style("house", (118, 130), "pop", _CLUB, CLUB, (24, 25), weight=1.5),
        Style("techno", (124, 146), "plain", _CLUB, CLUB, (24, 25), weight=1.5),
        Style("trance", (130, 144), "plain", "minor minor dorian", CLUB, (24,)),
        Style("dance pop", (112, 132), "pop", "major minor", (*CLUB, 0), (24, 0)),
        Style("drum and bass", (160, 178), "pop", "minor dorian", CLUB, (24, 0)),
        Style("ambient", (60, 96), "pop", "dorian lydian minor", (88, 11, 73, 52, 4), (24, 0)),
        Style("reggae", (66, 92), "plain", "minor major mixolydian", (57, 16, 66, 22), (0, 8)),
        Style("ska", (130, 168), "plain", _BOTH, (57, 56, 65, 16)),
        Style("calypso", (100, 140), "plain", _MAJOR, (114, 73, 56, 12)),
        Style("bossa nova", (112, 150), "jazz", _JAZZ, (73, 24, 65, 11, 26, 0), weight=1.5),
        Style("samba", (90, 124), "jazz", "jazz minor", LATIN, weight=1.2),
        Style("salsa", (150, 196), "jazz", "minor jazz-minor major", LATIN),
        Style("mambo", (140, 190), "jazz", "minor jazz-minor jazz", LATIN),
        Style("merengue", (120, 160), "plain", _BOTH, (*LATIN, 21)),
        Style("cha-cha", (108, 128), "plain", "minor major", LATIN),
        Style("rumba", (96, 132), "plain", "minor major jazz", LATIN),
        Style("beguine", (100, 132), "jazz", "jazz major minor", LATIN),
        Style("bolero", (72, 104), "plain", "minor major", (24, 56, 40, 73, 48)),
        Style("son", (100, 140), "plain", "minor major", (24, 56, 73)),
        Style("tango", (112, 132), "plain", "minor minor major", (23, 40, 21, 0), weight=1.5),
        Style("afro-cuban", (90, 124), "jazz", "dorian minor", LATIN),
        Style("latin", (96, 136), "pop", "minor major dorian", LATIN),
        Style("waltz", (100, 170), "plain", _BOTH, (40, 71, 73, 0, 68, 48, 21), weight=3),
        Style("musette waltz", (130, 190), "plain", "minor major", (21, 23, 71, 40), weight=1.5),
        Style("country waltz", (88, 130), "plain", _MAJOR, (40, 25, 22, 105), weight=1.5),
        Style("jazz waltz", (120, 190), "jazz", _JAZZ, JAZZ, (32, 40, 0), True, 2),
        Style("rock waltz", (90, 140), "pop", _ROCK, ROCK, weight=1.2),
        Style("latin waltz", (100, 150), "jazz", "minor jazz", LATIN, weight=1.2),
        Style("show waltz", (100, 160), "plain", "major jazz", (40, 71, 73, 48, 56), weight=1.2),
        Style("swing", (110, 190), "jazz", _JAZZ, JAZZ, (32, 40, 0), True, 2.5),
        Style("slow swing", (66, 108), "jazz", _JAZZ, JAZZ, (32, 40), True, 1.5),
        Style(
            "big band", (100, 180), "jazz", "jazz jazz-minor blues", (*BRASS, 66, 65), (32, 0), True
        ),
        Style("bebop", (170, 220), "jazz", "jazz jazz-minor blues", JAZZ, (32,), True),
        Style("cool jazz", (96, 150), "jazz", _JAZZ, JAZZ, (32, 40), True, 1.5),
        Style("jazz ballad", (54, 80), "jazz", _JAZZ, JAZZ, (40, 32), True),
        Style("jazz in five", (120, 176), "jazz", "jazz-minor dorian", JAZZ, (32, 0), True),
        Style("gypsy jazz", (150, 210), "jazz", "jazz-minor jazz", (40, 24, 71, 21), (40,), True),
        Style("dixieland", (140, 210), "jazz", "jazz major", (56, 71, 57, 105), (0, 32), True),
        Style("ragtime", (84, 120), "plain", "major jazz", (3, 0, 71, 105)),
        Style("charleston", (180, 220), "jazz", "jazz major", (71, 56, 3), (0, 32), True),
        Style("foxtrot", (110, 170), "jazz", "jazz major", (71, 66, 56, 48), (0, 32, 40), True),
        Style("quickstep", (176, 208), "jazz", "jazz major", (71, 66, 56), (0, 32), True),
        Style("show tune", (96, 150), "jazz", "jazz major", (71, 73, 56, 48, 40), (0, 32)),
        Style(
            "blues",
            (76, 130),
            "blues",
            "blues blues blues-minor",
            (22, 26, 29, 66, 16),
            (0, 8),
            True,
            2,
        ),
        Style(
            "slow blues", (54, 76), "blues", "blues blues-minor", (22, 29, 66, 16, 0), (0, 8), True
        ),
        Style("boogie-woogie", (130, 180), "blues", _BLUES, (0, 66, 22, 26), (0,), True, 1.2),
        Style("shuffle", (100, 150), "blues", "blues major", (22, 66, 27, 16), (0, 8), True),
        Style("country", (88, 150), "plain", _MAJOR, (40, 25, 22, 105, 27), weight=2),
        Style("bluegrass", (100, 150), "plain", "major mixolydian", (105, 40, 25), weight=1.2),
        Style("western swing", (130, 190), "plain", "major jazz", (40, 26, 71), (0, 40), True),
        Style("folk", (84, 130), "plain", "major mixolydian dorian minor", FOLK, weight=2),
        Style("folk ballad", (60, 96), "plain", "major minor dorian", FOLK, weight=1.2),
        Style("zydeco", (110, 160), "plain", "major blues", (21, 22, 40)),
        Style("polka", (100, 132), "plain", _MAJOR, (21, 71, 56, 40), weight=1.2),
        Style("march", (104, 124), "plain", _BOTH, (56, 73, 71, 60, 57), (0, 48), weight=1.2),
        Style("hymn", (60, 96), "plain", _BOTH, (19, 52, 48, 68), weight=1.2),
        Style("gospel", (66, 112), "blues", "major blues", (16, 0, 52, 66)),
        Style("lullaby", (60, 92), "plain", _MAJOR, (10, 73, 46, 11, 0, 71)),
        Style("arpeggio study", (66, 120), "plain", _BOTH, (0, 40, 42, 73, 68), weight=1.2),
        Style("middle eastern", (90, 130), "plain", "phrygian minor", EAST),
        Style("twist", (140, 176), "plain", "major blues", (66, 27, 16, 0)),
    )
}
# The groove files of MMA's library, by style: regular expressions that match the whole name.
FILES = {
    "rock": ".*/(rock[12]?|8beat|basicrock|60srock|bubblerock|poprock.|digitalrock|hrk|w-rock"
    "|8beat[12]|16beat[12]|beat8|beat16|folkrock|highfive)",
    "fifties rock and roll": ".*/(50srock|K50s_rock|jive)",
    "soft rock": ".*/softrock",
    "jazz rock": ".*/(jazzrock|fusion|fus16|lfusion|latinfusion)",
    "slow rock": ".*/(slowrock|rockballad|slow16beat)",
    "metal": ".*/(heavymetal|metal.|mtl|thr)",
    "punk": ".*/punk",
    "pop": ".*/(pop|60spop|80spop|8beat3|8beatpop.|16beat3|worldpop|boneym|electricpop|twi)",
    "pop ballad": ".*/(popballad|8beatballad.|16beatballad.|kwestballad)",
    "ballad": ".*/(ballad|bald|oldieballad|guitarballad|pianoballad|stringballad|serenade)",
    "slow ballad in six": ".*/(68ballad|ballad68|ballad128|rock-128|bald34)",
    "motown": ".*/8beatmotown",
    "soul": ".*/(60ssoul|soul|soulpop|dsoul)",
    "rhythm and blues": r".*/(r\+b|rb|rb-ballad|rnb|mellowrb|modernrb|strut)",
    "funk": ".*/(funk.?|Kfunk1|bvfunk)",
    "disco": ".*/discosoul",
    "hip hop": ".*/(hiphop|hip-hop)",
    "trip hop": ".*/(triphop|trip)",
    "house": ".*/(house|latinhouse)",
    "techno": ".*/(techno|teamtechno|rave)",
    "trance": ".*/(trance|trance.)",
    "dance pop": ".*/(dance.?|dancepop.|8beatdance)",
    "drum and bass": ".*/dnb",
    "ambient": ".*/(ambient.?|desert)",
    "reggae": ".*/reggae",
    "ska": ".*/ska",
    "calypso": ".*/calypso",
    "bossa nova": ".*/(bossanova|kbossa|bossa|jazzbossa)",
    "samba": ".*/samba",
    "salsa": ".*/salsa.?",
    "mambo": ".*/mambo",
    "merengue": ".*/merengue",
    "cha-cha": ".*/chacha",
    "rumba": ".*/(rhumba|jazzrhumba)",
    "beguine": ".*/beguine",
    "bolero": ".*/(bolero|slowbolero)",
    "son": ".*/son",
    "tango": ".*/(tango|lighttango)",
    "afro-cuban": ".*/(afro-cuban|afro)",
    "latin": ".*/(latin|cubanguitar|quando-g.s280)",
    "waltz": ".*/(waltz|fastwaltz|vienesewaltz|popwaltz)",
    "musette waltz": ".*/frenchwaltz",
    "country waltz": ".*/countrywaltz",
    "jazz waltz": ".*/(jazzwaltz|fastjazzwaltz|modernjazzwaltz)",
    "rock waltz": ".*/(rockwaltz|rock34)",
    "latin waltz": ".*/latinwaltz",
    "show waltz": ".*/broadwaywaltz",
    "swing": ".*/(swing|easyswing|fastswing|68swing|jazzcombo|jazzswing|jazzGrtrio|jazztrio|jazz"
    "|jazzbouncy|jazz04|descendingjazz)",
    "slow swing": ".*/(slowswing|slowjazz|mellowjazz)",
    "big band": ".*/(bigband|fastbigband|middlebigband|slowbigband|jazzbasie)",
    "bebop": ".*/bebop",
    "cool jazz": ".*/(modernjazz|jazzguitar|evansish|folkyjazz)",
    "jazz ballad": ".*/nitejazz",
    "jazz in five": ".*/jazz-54",
    "gypsy jazz": ".*/gypsyjazz",
    "dixieland": ".*/(dixie|dixiemarch)",
    "ragtime": ".*/ragtime",
    "charleston": ".*/charleston",
    "foxtrot": ".*/(foxtrot|softshoe|polkafox|2beatp)",
    "quickstep": ".*/quickstep",
    "show tune": ".*/(broadway|showtune|slowbroadway)",
    "blues": ".*/(blues|blues68|blues128|fastblues|blues34)",
    "slow blues": ".*/slowblues",
    "boogie-woogie": ".*/(boggiewoggie|shuffleboggie|shuffleboogie)",
    "shuffle": ".*/(shuffle|16shuffle.|popshuffle.|shufflerock|happyshuffle)",
    "country": ".*/(slowcountry|cntry|country|western|jazzcountry|countryblues|hillcountry)",
    "bluegrass": ".*/bluegrass",
    "western swing": ".*/(westernswing|countryswing)",
    "folk": ".*/(folk|bluefolk)",
    "folk ballad": ".*/folkballad",
    "zydeco": ".*/zydeco",
    "polka": ".*/(polka|poppolka)",
    "march": ".*/(march|march1|68march|bwmarch|germanmarch)",
    "hymn": ".*/hymn",
    "gospel": ".*/(spiritual|slowspiritual|popspiritual)",
    "lullaby": ".*/lullaby",
    "arpeggio study": ".*/arpeggio.*",
    "middle eastern": ".*/mide",
    "twist": ".*/(twist|fasttwist)",
}
USELESS = ".*/(none|metronome.*|count|intro|ending)"  # not accompaniments
# The bar as it is written; other files are in 4/4, 3/4 or 6/8 as MMA counts them.
METERS = {
    "12/8": "stdlib/(ballad68|ballad128|blues128|rock-128)",
    "6/8": "casio/68ballad|stdlib/afro-cuban",
    "2/4": ".*/(polka|poppolka|march1|germanmarch|bwmarch|ragtime|merengue)",
}


def style_of(file: str) -> Style:
    """The style of a groove file like "stdlib/bossanova"; other files' names become words."""
    for name, pattern in FILES.items():
        if re.fullmatch(pattern, file):
            return STYLES[name]
    words = re.sub(r"[^a-z]+", " ", file.rsplit("/")[-1].lower()).strip() or "popular"
    return Style(words, (84, 132), "plain", _BOTH, POP)


def meter_of(file: str, beats: float, signature: str) -> str:
    """The meter of a groove file; `beats` and `signature` are MMA's Time and TimeSig."""
    for meter, pattern in METERS.items():
        if re.fullmatch(pattern, file):
            return meter
    return {3: "3/4", 5: "5/4", 6: "6/8"}.get(int(beats), signature)
