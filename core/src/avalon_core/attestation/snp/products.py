"""AMD's product lines: how a processor, a certificate and a TCB version tell which one they are of.

The layout of TCB_VERSION is the product's, not the report version's: from Turin on it has a field for the firmware of
the FMC, and all others moved. Source: SEV Secure Nested Paging Firmware ABI Specification (AMD 56860), 2.2 TCB
Version; Versioned Chip Endorsement Key Certificate and KDS Interface Specification (AMD 57230), 3.1 and 4.
"""

import enum
from collections.abc import Mapping, Sequence
from types import MappingProxyType

TCB_BYTES = 8


class Product(enum.StrEnum):
    """A product line: one ARK each."""

    MILAN = "Milan"
    GENOA = "Genoa"
    """With Bergamo and Siena."""

    TURIN = "Turin"


_SPL4_TO_7 = ("spl4", "spl5", "spl6", "spl7")
_BEFORE_TURIN = ("bootloader", "tee", *_SPL4_TO_7, "snp", "microcode")
_FROM_TURIN = ("fmc", "bootloader", "tee", "snp", "spl5", "spl6", "spl7", "microcode")
_RESERVED = frozenset(_SPL4_TO_7)
_CPUID_MODELS: Sequence[tuple[int, range, Product]] = (
    (0x19, range(0x10), Product.MILAN),
    (0x19, range(0x10, 0x20), Product.GENOA),
    (0x19, range(0xA0, 0xB0), Product.GENOA),
    (0x1A, range(0x20), Product.TURIN),
)


def product_of_cpuid(family: int, model: int) -> Product | None:
    """The product line of a CPUID family and model (each 8 bits, extended parts included); None where not known."""
    for known_family, models, product in _CPUID_MODELS:
        if family == known_family and model in models:
            return product
    return None


def product_of_name(name: str) -> Product | None:
    """The product line of a certificate's product name: ``Milan-B0``, ``Turin``. None where not known."""
    line = name.partition("-")[0]
    return next((product for product in Product if product.value == line), None)


def tcb_components(product: Product) -> Sequence[str]:
    """The names of the eight bytes of TCB_VERSION, from its lowest; ``spl4`` to ``spl7`` are reserved."""
    return _FROM_TURIN if product is Product.TURIN else _BEFORE_TURIN


def decode_tcb(raw: bytes, product: Product) -> Mapping[str, int]:
    """The security versions in a TCB_VERSION of 8 bytes (little endian), by name, without the reserved ones."""
    names = tcb_components(product)
    return MappingProxyType(
        {name: raw[i] for i, name in enumerate(names) if name not in _RESERVED},
    )


def encode_tcb(components: Mapping[str, int], product: Product) -> bytes:
    """TCB_VERSION, 8 bytes: what is absent is 0.

    Raises:
        ValueError: a component that this product does not have, or one beyond 0 to 255.
    """
    names = tcb_components(product)
    unknown = set(components) - set(names)
    if unknown:
        raise ValueError(f"{product} has no TCB components {sorted(unknown)}")
    return bytes(components.get(name, 0) for name in names)
