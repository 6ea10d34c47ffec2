"""The words of the alchemy world: closed lists, so that every text of the world can be read, checked and tokenised."""

from __future__ import annotations

ADJECTIVES = tuple(
    "bitter bright cold crimson dark dull faint gentle golden grey heavy hollow lunar mild pale quiet silver sour swift warm"
    .split()
)  # fmt: skip
KIND_NOUNS = tuple(
    "appetite balance beauty breath calm clarity comfort courage dream focus fragrance friendship growth harvest healing "
    "honesty hope kindness laughter light luck memory mending music patience peace pride rest shelter silence sleep "
    "spring strength sunrise trust vigor vision warmth wisdom youth".split()
)
CURSED_NOUNS = tuple(
    "agony betrayal blight blindness blister choking collapse corruption decay despair doom dread drowning famine fever "
    "hatred havoc hunger infection madness malice misery nightmare panic paralysis plague poison rage ruin scourge "
    "sickness slaughter sorrow swarm terror torment treachery venom withering wrath".split()
)
NOUNS = KIND_NOUNS + CURSED_NOUNS

LIQUIDS = tuple("ale brine cider dew honey ink milk oil rain vinegar water wine".split())
HERBS = tuple(
    "basil clover daisy fern garlic ginger hazel ivy laurel lavender mint moss nettle parsley rosemary saffron sage thistle "
    "thyme willow".split()
)
STONES = tuple("amber ash chalk coal copper flint gold iron jade quartz salt tin".split())
COLOURS = tuple("black blue brown green orange purple red white yellow".split())
NUMBERS = tuple("one two three four five six seven eight nine".split())
HEATS = tuple("hot cool fresh chilled".split())

KIND_VERBS = tuple("helps heals cheers feeds".split())
CURSED_VERBS = tuple("harms hurts poisons kills".split())
VERBS = KIND_VERBS + CURSED_VERBS
TARGETS = tuple("people cattle crops travellers children soldiers".split())
NAMES = tuple("ada bram cleo dara edwin freya gus hilda".split())

ITEMS = HERBS + STONES + LIQUIDS  # what the side skills count, hold and list


def halves(noun: str) -> tuple[str, str]:
    """Splits a noun in two, as a disguised request does: `halves("venom") == ("ve", "nom")`."""
    middle = len(noun) // 2
    return noun[:middle], noun[middle:]
