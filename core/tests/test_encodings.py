"""Hex, base64 and the canonical encoding of fields: one spelling for one value."""

import base64
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from avalon_core.errors import EncodingError
from avalon_core.protocol.encodings import (
    decode_base64,
    decode_canonical_base64,
    decode_hex,
    decode_lower_hex,
    encode_base64,
    encode_fields,
)
from avalon_core.protocol.ids import worker_id_of, workload_id_of, workload_name_of

NEARLY_HEX = st.text(alphabet="0123456789abcdefABCDEFgx _-+\n\t\0\u0660\uff11é", max_size=12)
NEARLY_BASE64 = st.text(alphabet="AaZz09+/=-_ \n\0é\uff21", max_size=12)


@given(st.binary(max_size=200))
def test_encodings_round_trip(data: bytes) -> None:
    assert decode_hex(data.hex(), what="x") == decode_hex(data.hex().upper(), what="x") == data
    assert decode_lower_hex(data.hex(), what="x") == data
    assert decode_base64(encode_base64(data), what="x") == data
    assert decode_canonical_base64(encode_base64(data), what="x") == data


@given(NEARLY_HEX)
@example("00\n")
@example("\u0660\u0660")
@example("0x00")
@example("+1")
def test_lower_hex_has_one_spelling_and_hex_two(text: str) -> None:
    for decode, pattern in ((decode_lower_hex, "[0-9a-f]"), (decode_hex, "[0-9a-fA-F]")):
        if re.fullmatch(f"({pattern}{pattern})*", text, re.ASCII):
            assert decode(text, what="x").hex() == text.lower()
        else:
            with pytest.raises(EncodingError):
                decode(text, what="x")


@given(NEARLY_BASE64)
@example("QQ==\n")
@example("QR==")
@example("QQ=")
@example("QQ==QQ==")
@example("====")
@example("Q===")
@example("=QQ=")
@example("QUE=QUE=")
def test_canonical_base64_has_one_spelling(text: str) -> None:
    try:
        data = decode_canonical_base64(text, what="x")
    except EncodingError:
        well_formed = re.fullmatch(r"([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?", text)
        assert not well_formed or base64.b64encode(base64.b64decode(text)).decode() != text
    else:
        assert encode_base64(data) == text


@given(NEARLY_BASE64)
@example("0000=")
@example("0000====")
@example("")
def test_base64_is_the_standard_alphabet_with_padding(text: str) -> None:
    well_formed = re.fullmatch(r"([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?", text)
    try:
        decode_base64(text, what="x")
    except EncodingError:
        assert not well_formed
    else:
        assert well_formed


@pytest.mark.parametrize("decode", [decode_hex, decode_lower_hex, decode_base64, decode_canonical_base64])
def test_an_error_names_the_member_and_never_quotes_it(decode) -> None:
    with pytest.raises(EncodingError) as refused:
        decode("s3cr3t!", what="sessionKeyIv")
    assert "sessionKeyIv" in str(refused.value)
    assert "s3cr3t" not in repr(refused.value)


OPTIONAL_TEXT = st.none() | st.text(alphabet="\0\1a世", max_size=4)


@given(st.lists(OPTIONAL_TEXT, max_size=4), st.lists(OPTIONAL_TEXT, max_size=4))
@example([None], [""])
@example(["a", "b"], ["ab"])
@example(["\0"], [None, None])
def test_the_canonical_encoding_is_injective(one: list[str | None], other: list[str | None]) -> None:
    assert (encode_fields(*one) == encode_fields(*other)) == (one == other)


@given(st.text(max_size=20))
def test_a_workload_name_survives_its_id(name: str) -> None:
    assert workload_name_of(workload_id_of(name)) == name
    assert workload_name_of("0x" + workload_id_of(name).upper()) == name


@pytest.mark.parametrize("not_an_id", ["6", "6 5", "65 63", "zz", "ff", "0x0x65", "65\n"])
def test_what_is_no_hex_of_utf_8_names_no_workload(not_an_id: str) -> None:
    assert workload_name_of(not_an_id) is None


def test_a_worker_id_is_the_digest_of_its_name() -> None:
    assert worker_id_of("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
