"""A simulated crowd that tags the photographs of CIFAR-10, for when there are no real tags.

The tagging experiment of Mirza & Osindero 2014 (section 4.2) used the tags of MIR Flickr.  The
crowd stands in for them, so that it runs everywhere: photographs and labels are real, what is
measured in the pixels is real, the words are drawn from a process that is written here in full and
whose distribution of tags is known exactly.

Tags are a bool matrix [N, V]: whether image n has word v.  Random numbers come from the generator
that is passed in, on the CPU.  Every constant of the process is ours, and was set before any
model was trained on it.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor
from torch.nn import functional

# The vocabulary of the crowd.  A concept is in a photograph or not; its words say the same thing,
# the most popular first: word number r of a concept has popularity 1 / r (Zipf).
CLASSES = "airplane automobile bird cat deer dog frog horse ship truck"  # of CIFAR-10, in order
OBJECTS = {  # concept: classes of the photographs that show it, its words
    "plane": ("airplane", "plane airplane aircraft aeroplane jet airliner boeing"),
    "flight": ("airplane", "flying flight aviation airport takeoff landing airshow"),
    "car": ("automobile", "car auto automobile coupe sedan sportscar oldtimer"),
    "motoring": ("automobile", "driving racing classic carshow ford ferrari parking"),
    "bird": ("bird", "bird birds oiseau vogel aves fowl songbird"),
    "birding": ("bird", "feathers birding wings beak nest birdwatching sparrow"),
    "cat": ("cat", "cat kitty kitten feline gato katze chat"),
    "cat life": ("cat", "whiskers meow tabby sleepy purr catnap"),
    "deer": ("deer", "deer stag doe fawn buck elk hirsch"),
    "forest": ("deer", "forest woods antlers trees grazing nationalpark"),
    "dog": ("dog", "dog puppy pup canine perro hund doggy"),
    "dog life": ("dog", "labrador walkies terrier fetch retriever poodle"),
    "frog": ("frog", "frog toad treefrog amphibian frosch rana tadpole"),
    "pond": ("frog", "pond macro leaf swamp rainforest jump"),
    "horse": ("horse", "horse pony mare stallion foal equine caballo"),
    "riding": ("horse", "riding equestrian stable ranch saddle gallop"),
    "ship": ("ship", "ship boat vessel sailboat ferry yacht schiff"),
    "harbour": ("ship", "harbor sailing port dock cruise marina navy"),
    "truck": ("truck", "truck lorry camion pickup firetruck trailer semi"),
    "haulage": ("truck", "trucking delivery cargo diesel construction freight"),
    "animal": ("bird cat deer dog frog horse", "animal animals creature fauna eyes"),
    "wild": ("bird deer frog", "wildlife nature wild outdoors zoo"),
    "pet": ("cat dog", "pet cute pets adorable furry"),
    "grass": ("deer horse", "grass field farm meadow pasture"),
    "transport": ("airplane automobile ship truck", "travel transport vehicle engine machine"),
    "road": ("automobile truck", "road street highway traffic wheels"),
    "sky": ("airplane bird", "sky clouds air horizon"),
    "water": ("ship frog", "water sea river lake ocean"),
}
ATTRIBUTES = {  # in the order of `attributes`
    "red": "red rouge rojo crimson",
    "orange": "orange brown golden autumn",
    "yellow": "yellow gold jaune amarillo",
    "green": "green verde vert lush",
    "blue": "blue azul bleu azure",
    "purple": "pink purple violet magenta",
    "grey": "blackandwhite bw monochrome grey",
    "vivid": "colorful color vivid saturated",
    "dark": "dark night shadow lowkey",
    "bright": "light bright white highkey",
    "contrast": "contrast hdr dramatic sharp",
    "soft": "soft fog haze minimal",
}
NOISE = {  # may be said of every photograph
    "camera": "canon nikon sony olympus pentax fuji leica",
    "year": "2007 2006 2008 2005 2004",
    "place": "london california paris italy japan australia berlin canada newyork",
    "people": "me family friends home holiday",
    "praise": "favourite photo explore bravo interesting",
}
CONCEPTS = [
    *(words.split() for _, words in OBJECTS.values()),
    *(words.split() for words in (*ATTRIBUTES.values(), *NOISE.values())),
]
WORDS = tuple(word for concept in CONCEPTS for word in concept)
CONCEPT_OF_WORD = tuple(k for k, concept in enumerate(CONCEPTS) for _ in concept)

HUE_EDGES = (20.0, 45.0, 70.0, 165.0, 255.0, 345.0)  # degrees: red ends at 20, orange at 45, ...
GREY, VIVID = 16.0, 48.0  # mean chroma; these six are near the outer fifths of CIFAR-10
DARK, BRIGHT = 100.0, 145.0  # mean luma
SOFT, CONTRAST = 36.0, 62.0  # standard deviation of luma


def attributes(images: Tensor) -> Tensor:
    """What the crowd sees in the pixels of uint8 [N, 3, H, W]: bool [N, 12], as in ATTRIBUTES.

    Chroma is max(R, G, B) - min(R, G, B), luma 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601), both in
    0 to 255.  A photograph is grey when its mean chroma is below GREY; else its hue is the sector
    of the HSV circle that holds most of its chroma.  Vivid: mean chroma above VIVID.  Dark and
    bright: mean luma below DARK, above BRIGHT.  Contrast and soft: standard deviation of luma over
    the pixels above CONTRAST, below SOFT.
    """
    return torch.cat([_attributes(rows) for rows in images.split(1000)])


def _attributes(images: Tensor) -> Tensor:
    x = images.flatten(2).float()  # sums of chroma are whole numbers below 2^24: exact
    red, green, blue = x.unbind(dim=1)  # [n, pixels] each
    high = x.amax(dim=1)
    chroma = high - x.amin(dim=1)
    scale = chroma.clamp(min=1.0)
    hue = torch.where(high == green, (blue - red) / scale + 2.0, (red - green) / scale + 4.0)
    hue = 60.0 * torch.where(high == red, ((green - blue) / scale) % 6.0, hue)
    # A hue on an edge belongs above it, whatever the rounding: no other hue is so close to one.
    edges = torch.tensor(HUE_EDGES, device=x.device) - 0.01
    sector = torch.bucketize(hue, edges, right=True) % len(HUE_EDGES)
    held = x.new_zeros(len(x), len(HUE_EDGES)).scatter_add_(1, sector, chroma)
    luma = (0.299 * red + 0.587 * green + 0.114 * blue).double()
    mean, spread, colour = luma.mean(dim=1), luma.std(dim=1, correction=0), chroma.mean(dim=1)
    grey = colour < GREY
    hues = functional.one_hot(held.argmax(dim=1), len(HUE_EDGES)).bool() & ~grey[:, None]
    rest = [grey, colour > VIVID, mean < DARK, mean > BRIGHT, spread > CONTRAST, spread < SOFT]
    return torch.cat([hues, torch.stack(rest, dim=1)], dim=1)


def concepts(images: Tensor, labels: Tensor) -> Tensor:
    """Which concepts are in photographs uint8 [N, 3, H, W] of classes int64 [N]: bool [N, K].

    Objects follow from the class, attributes from the pixels; noise concepts are always there.
    """
    shown = torch.tensor(
        [[c in classes.split() for classes, _ in OBJECTS.values()] for c in CLASSES.split()]
    )
    always = torch.ones(len(images), len(NOISE), dtype=torch.bool, device=images.device)
    return torch.cat([shown.to(images.device)[labels], attributes(images), always], dim=1)


def draw_crowd(random: Generator, *, users: int = 300) -> Tensor:
    """Habits of the users, float64 [U, V]: P(user writes the word | its concept is there).

    A user has a first and a second word for each concept, drawn by popularity without replacement,
    and never writes another.  Gives about n tags to a photograph, log-normal with median 3 and
    sigma 0.8, of which a share uniform in [0, 0.7] is for attributes.  The first word of a concept
    has probability n (1 - share) / 4.3 for an object, n share / 2.1 for an attribute (4.3 and 2.1
    is how many a photograph has on average), at most 0.9.  Each noise concept is used by half of
    the users, with a probability of their own, uniform in [0, 0.5].  The second word has 0.3
    times the probability of the first.
    """
    n = 3.0 * (0.8 * torch.randn(users, generator=random, dtype=torch.float64)).exp()
    share = 0.7 * torch.rand(users, generator=random, dtype=torch.float64)
    shape = (users, len(NOISE))
    uses = torch.rand(shape, generator=random) < 0.5
    noise = uses * 0.5 * torch.rand(shape, generator=random, dtype=torch.float64)
    objects = (n * (1.0 - share) / 4.3).clamp(max=0.9)[:, None].expand(-1, len(OBJECTS))
    attribute = (n * share / 2.1).clamp(max=0.9)[:, None].expand(-1, len(ATTRIBUTES))
    first = torch.cat([objects, attribute, noise], dim=1)  # [U, K]
    habits = []
    for k, words in enumerate(CONCEPTS):
        popularity = 1.0 / torch.arange(1, len(words) + 1, dtype=torch.float64)
        chosen = popularity.expand(users, -1).multinomial(2, generator=random)  # [U, 2]
        p = first[:, k, None] * torch.tensor([1.0, 0.3], dtype=torch.float64)
        habits.append(torch.zeros(users, len(words), dtype=torch.float64).scatter(1, chosen, p))
    return torch.cat(habits, dim=1)


def tag_photographs(present: Tensor, habits: Tensor, users: Tensor, *, random: Generator) -> Tensor:
    """Tags bool [N, V] of photographs with concepts bool [N, K], each by its user, int64 [N].

    Every word whose concept is there is written with the probability of the user's habit [U, V],
    independently.  An image may end with no tag.
    """
    p = habits[users] * present[:, list(CONCEPT_OF_WORD)]
    return torch.rand(p.shape, generator=random, dtype=torch.float64) < p


def true_distribution(present: Tensor, habits: Tensor) -> Tensor:
    """P(word | class, attributes), float64 [N, V], rows sum to 1, from concepts bool [N, K].

    The word of an image-tag pair drawn from all pairs that the crowd would make of photographs
    with these concepts, each by a user drawn uniformly.  As words are written independently, the
    expected number of pairs with word v is the mean habit over users where the concept of v is
    there, and the distribution is that, divided by its sum.  Images without tags make no pairs.
    """
    expected = habits.mean(dim=0).to(present.device) * present[:, list(CONCEPT_OF_WORD)]
    return expected / expected.sum(dim=1, keepdim=True)
