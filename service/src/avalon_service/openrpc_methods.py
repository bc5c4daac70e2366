"""What there is to say of each method beyond its params and result: from here the OpenRPC document is made.

The methods themselves are in the listener's tables; a test compares this list with what a running service answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from avalon_core.crypto.recovery import Recovery
from avalon_core.protocol.cancellation import WorkOrderCancelParams
from avalon_core.protocol.errors import (
    EncryptionKeyCode,
    EncryptionKeyError,
    GeneralCode,
    GeneralError,
    WireError,
    WorkOrderCode,
    WorkOrderError,
)
from avalon_core.protocol.ids import worker_id_of, workload_id_of
from avalon_core.protocol.orders import GetResultParams, WorkOrderRequest, WorkOrderResult
from avalon_core.protocol.pools import (
    PoolChangeParams,
    PoolChangeResult,
    PoolDrainParams,
    PoolDrainResult,
    PoolRecoverParams,
    PoolRecoverResult,
    PoolRotateParams,
    PoolRotateResult,
    PoolShareParams,
    PoolShareResult,
    PoolSharesParams,
    PoolStatusParams,
    PoolStatusResult,
)
from avalon_core.protocol.receipts import (
    ReceiptCreateParams,
    ReceiptLookUpNextParams,
    ReceiptLookUpParams,
    ReceiptLookUpResult,
    ReceiptResult,
    ReceiptRetrieveParams,
    ReceiptUpdateParams,
    ReceiptUpdateResult,
    ReceiptUpdateRetrieveParams,
)
from avalon_core.protocol.registry import (
    EncryptionKeyGetParams,
    EncryptionKeyGrant,
    EncryptionKeySetParams,
    RequesterKeyGetParams,
    RequesterKeySetParams,
    WorkerRegisterParams,
    WorkerSetStatusParams,
    WorkerUpdateParams,
)
from avalon_core.protocol.workers import (
    WorkerLookUpNextParams,
    WorkerLookUpParams,
    WorkerLookUpResult,
    WorkerRecord,
    WorkerRetrieveParams,
)

DISCOVER = "rpc.discover"


class DiscoverParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The params of rpc.discover: there are none."""


class RequesterKeyResult(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The result of RequesterKeyGet."""

    requester_id: str
    """As it was asked for."""

    verifying_key: str | None
    """PEM of the key that signs this requester's orders; null where none is registered."""


class Example(msgspec.Struct, frozen=True, kw_only=True):
    """An exchange: params, and the result or the error object."""

    name: str
    params: Mapping[str, Any]
    result: Any = None
    error: Mapping[str, Any] | None = None


class MethodSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be said of one method."""

    name: str
    summary: str
    tag: str
    params: type[msgspec.Struct]
    result: type[msgspec.Struct] | None
    """None: success is an error object of code 0."""

    space: type[WireError]
    """Of the codes."""

    codes: frozenset[int]
    """Every code that a caller can get, beside JSON-RPC's own."""

    authority: str = ""
    """Who may call it; empty: everybody."""

    waits: bool = False
    """The answer is held where the request has the header ``Prefer: wait=N``."""

    is_ours: bool = False
    """The specification does not have it."""

    examples: tuple[Example, ...] = ()


MEANINGS: Mapping[type[WireError], Mapping[int, str]] = {
    GeneralError: {
        GeneralCode.SUCCESS: "done (success is an error object by an old habit of this protocol)",
        GeneralCode.UNKNOWN_ERROR: "not possible at the moment, or no room; the message says why",
        GeneralCode.INVALID_PARAMETER: "a param is wrong, or names nothing that is here; the message says which",
        GeneralCode.ACCESS_DENIED: "the caller lacks the authority",
        GeneralCode.INVALID_SIGNATURE: "a signature does not verify, or was used before",
        GeneralCode.NO_MORE_RESULTS: "the look-up is past its end",
        GeneralCode.UNSUPPORTED_MODE: "the service does not run in the mode that this needs: it runs no pool",
    },
    WorkOrderError: {
        WorkOrderCode.SUCCESS: "done (success is an error object by an old habit of this protocol)",
        WorkOrderCode.FAILED: "the order failed, ended otherwise, or does not open",
        WorkOrderCode.INVALID_PARAMETER: "a param is wrong, the order or worker unknown, or the order's id taken",
        WorkOrderCode.ACCESS_DENIED: "the caller does not prove to be the order's requester, or is refused",
        WorkOrderCode.INVALID_SIGNATURE: "the order lacks a signature that it needs, or it does not verify",
        WorkOrderCode.PENDING: "accepted and not finished: ask with WorkOrderGetResult",
        WorkOrderCode.BUSY: "no room, or the worker is off-line; data.retryAfterSeconds says when to come back",
        WorkOrderCode.INVALID_WORKLOAD: "the worker has no such workload",
    },
    EncryptionKeyError: {
        EncryptionKeyCode.SUCCESS: "done (success is an error object by an old habit of this protocol)",
        EncryptionKeyCode.FAILED: "the worker must not be used, or there is no room",
        EncryptionKeyCode.INVALID_PARAMETER: "a param is wrong, or the worker unknown",
        EncryptionKeyCode.ACCESS_DENIED: "a signature does not verify or is an old one, or the worker is hosted here",
        EncryptionKeyCode.NOT_READY: "there is no key, or none that is newer",
    },
}
"""What each code says, by its space."""

_WORKER = worker_id_of("singleton-worker-1")
_ORDER, _REQUESTER, _SERVICE = "0a" * 32, "0b" * 32, "0c" * 32
_SIGNATURE = "MEQC" + "A" * 91 + "="
_HASH = "A" * 43 + "="
_PEM = "-----BEGIN PUBLIC KEY-----\nMFYw\n-----END PUBLIC KEY-----\n"
_ITEM = {"index": 0, "data": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="}
_IDS = {
    "workOrderId": _ORDER,
    "workerId": _WORKER,
    "workloadId": workload_id_of("echo-result"),
    "requesterId": _REQUESTER,
}
_REQUEST = {
    "responseTimeoutMSecs": 0,
    "payloadFormat": "~avalon-hpke-1",
    **_IDS,
    "requesterNonce": "0d" * 16,
    "encryptedSessionKey": "0e" * 1200,
    "encryptedRequestHash": "0f" * 48,
    "inData": [_ITEM],
}
_RESULT = {**_IDS, "workerNonce": _HASH, "workerSignature": _SIGNATURE, "outData": [_ITEM]}
_OPERATOR = "the operator: the token in the HTTP header Authorization: Bearer ..."
_WORKERS_OWN = f"{_OPERATOR}; or the worker: signatureNonce and signature"
_TYPE_DATA = {"verificationKey": _PEM, "encryptionKey": _PEM, "encryptionKeySignature": "00"}
_DETAILS = {"workerTypeData": _TYPE_DATA, "workOrderSyncUri": "https://elsewhere.example/"}
_PAGE = {"totalCount": 1, "lookupTag": "", "ids": [_WORKER]}
_NEXT_PAGE = {"totalCount": 101, "lookupTag": "", "ids": [_WORKER]}
_RECEIPT = {
    "workOrderId": _ORDER,
    "workerServiceId": _SERVICE,
    "workerId": _WORKER,
    "requesterId": _REQUESTER,
    "receiptCreateStatus": 0,
    "workOrderRequestHash": _HASH,
    "requesterGeneratedNonce": "0d" * 32,
    "requesterSignature": _SIGNATURE,
    "signatureRules": "SHA-256/SECP256K1",
    "receiptVerificationKey": _PEM,
}
_UPDATE = {
    "workOrderId": _ORDER,
    "updaterId": _REQUESTER,
    "updateType": 1,
    "updateData": _HASH,
    "updateSignature": _SIGNATURE,
    "signatureRules": "SHA-256/SECP256K1",
    "receiptVerificationKey": _PEM,
}
_KEY = {
    "workerId": _WORKER,
    "encryptionKey": _PEM,
    "encryptionKeyNonce": "0d" * 32,
    "tag": _REQUESTER,
    "signature": _SIGNATURE,
}
_ORDER_CODES = frozenset(
    {
        WorkOrderCode.FAILED,
        WorkOrderCode.INVALID_PARAMETER,
        WorkOrderCode.ACCESS_DENIED,
        WorkOrderCode.INVALID_SIGNATURE,
        WorkOrderCode.PENDING,
        WorkOrderCode.BUSY,
        WorkOrderCode.INVALID_WORKLOAD,
    }
)
_POOL_ID, _KEY_ID = "1a" * 32, "1b" * 32
_POOL_CODES = frozenset(
    {
        GeneralCode.UNKNOWN_ERROR,
        GeneralCode.INVALID_PARAMETER,
        GeneralCode.ACCESS_DENIED,
        GeneralCode.UNSUPPORTED_MODE,
    }
)
_SHARE = {"pool": _POOL_ID, "state": "1c" * 32, "threshold": 1, "key": _KEY_ID, "sealed": "00"}
_RECOVERY = {"pool": _POOL_ID, "state": "AAECAwQFBgcICQoLDA0ODw==", "shares": [_SHARE]}
_ENCLAVE = {"pid": 4711, "restarts": 0, "measurement": "1d" * 32, "lastEnd": ""}
_POOL_STATUS = {
    "worker": "singleton-worker-1",
    "workerId": _WORKER,
    "pool": _POOL_ID,
    "simulated": True,
    "state": "serving",
    "epoch": 1,
    "manifestVersion": 1,
    "links": 1,
    "linksEnded": {},
    "rollbacks": 0,
    "kmes": [
        {
            "name": "kme-1",
            "state": "serving",
            **_ENCLAVE,
            "rollbacks": 0,
            "enclave": {
                "instance": "1e" * 16,
                "serving": True,
                "revision": 1,
                "wpes": 1,
                "counters": {"opened": 0, "refused": 0, "registered": 1, "resumed": 0, "rollbacks": 0},
                "pool": _POOL_ID,
                "manifest": {"version": 1, "digest": _POOL_ID},
                "epochs": [{"number": 1, "made_at": 1_800_000_000, "key": _KEY_ID}],
            },
        }
    ],
    "wpes": [{"name": "wpe-1", "state": "serving", **_ENCLAVE, "inFlight": 0, "availability": "available"}],
}
_READ = frozenset({GeneralCode.UNKNOWN_ERROR, GeneralCode.INVALID_PARAMETER})
_WRITE = frozenset(GeneralCode) - {GeneralCode.NO_MORE_RESULTS, GeneralCode.UNSUPPORTED_MODE}


def _done(params: Mapping[str, Any], message: str, data: Mapping[str, Any] | None = None) -> Example:
    error: dict[str, Any] = {"code": 0, "message": message}
    return Example(name="success", params=params, error=error | ({"data": data} if data else {}))


def _pool_method(
    name: str,
    summary: str,
    params: type[msgspec.Struct],
    result: type[msgspec.Struct],
    example: Example,
) -> MethodSpec:
    return MethodSpec(
        name=name,
        summary=summary,
        tag="pools",
        params=params,
        result=result,
        space=GeneralError,
        codes=_POOL_CODES,
        authority=_OPERATOR,
        is_ours=True,
        examples=(example,),
    )


METHODS: tuple[MethodSpec, ...] = (
    MethodSpec(
        name="WorkerLookUp",
        summary="Find workers: every criterion is optional, all that are given must match.",
        tag="workers",
        params=WorkerLookUpParams,
        result=WorkerLookUpResult,
        space=GeneralError,
        codes=frozenset({GeneralCode.INVALID_PARAMETER}),
        examples=(Example(name="any TEE worker", params={"workerType": 1}, result=_PAGE),),
    ),
    MethodSpec(
        name="WorkerLookUpNext",
        summary="The next page of a look-up: the same criteria, and the tag under one of its three names.",
        tag="workers",
        params=WorkerLookUpNextParams,
        result=WorkerLookUpResult,
        space=GeneralError,
        codes=frozenset({GeneralCode.INVALID_PARAMETER, GeneralCode.NO_MORE_RESULTS}),
        examples=(
            Example(name="the last page", params={"workerType": 1, "lookUpTag": "100"}, result=_NEXT_PAGE),
        ),
    ),
    MethodSpec(
        name="WorkerRetrieve",
        summary="A worker's record: a claim, which the requester appraises before it seals anything.",
        tag="workers",
        params=WorkerRetrieveParams,
        result=WorkerRecord,
        space=GeneralError,
        codes=frozenset({GeneralCode.INVALID_PARAMETER}),
        examples=(
            Example(
                name="a worker that is registered here",
                params={"workerId": _WORKER},
                result={
                    "workerType": 1,
                    "organizationId": "",
                    "applicationTypeId": "",
                    "details": _DETAILS,
                    "status": 1,
                },
            ),
        ),
    ),
    MethodSpec(
        name="WorkerRegister",
        summary="Add a worker that runs elsewhere to the directory.",
        tag="workers",
        params=WorkerRegisterParams,
        result=None,
        space=GeneralError,
        codes=_WRITE,
        authority=_WORKERS_OWN,
        examples=(
            _done({"workerId": _SERVICE, "workerType": 1, "details": _DETAILS}, "the worker is registered"),
        ),
    ),
    MethodSpec(
        name="WorkerUpdate",
        summary="Replace the details of a worker that runs elsewhere.",
        tag="workers",
        params=WorkerUpdateParams,
        result=None,
        space=GeneralError,
        codes=_WRITE,
        authority=_WORKERS_OWN,
        examples=(_done({"workerId": _SERVICE, "details": _DETAILS}, "the worker is updated"),),
    ),
    MethodSpec(
        name="WorkerSetStatus",
        summary="Set a worker's status: 1 active, 2 off-line, 3 decommissioned, 4 compromised.",
        tag="workers",
        params=WorkerSetStatusParams,
        result=None,
        space=GeneralError,
        codes=_WRITE,
        authority=_WORKERS_OWN,
        examples=(_done({"workerId": _SERVICE, "status": 2}, "the worker is off-line"),),
    ),
    MethodSpec(
        name="EncryptionKeyGet",
        summary="The worker's present RSA key, vouched for by the worker itself.",
        tag="encryption keys",
        params=EncryptionKeyGetParams,
        result=EncryptionKeyGrant,
        space=EncryptionKeyError,
        codes=frozenset(EncryptionKeyCode) - {EncryptionKeyCode.SUCCESS, EncryptionKeyCode.NOT_SUPPORTED},
        examples=(
            Example(
                name="a key for this requester",
                params={"workerId": _WORKER, "requesterId": _REQUESTER},
                result=_KEY,
            ),
        ),
    ),
    MethodSpec(
        name="EncryptionKeySet",
        summary="Push a key of a worker that runs elsewhere, signed by it.",
        tag="encryption keys",
        params=EncryptionKeySetParams,
        result=None,
        space=EncryptionKeyError,
        codes=frozenset(EncryptionKeyCode) - {EncryptionKeyCode.NOT_SUPPORTED, EncryptionKeyCode.NOT_READY},
        authority="the worker: signatureNonce and signature",
        examples=(_done({**_KEY, "workerId": _SERVICE, "signatureNonce": "19"}, "the key is kept"),),
    ),
    MethodSpec(
        name="RequesterKeySet",
        summary="Register the key that must sign a requester's orders, or take it away.",
        tag="requesters",
        params=RequesterKeySetParams,
        result=None,
        space=GeneralError,
        codes=_WRITE - {GeneralCode.INVALID_SIGNATURE},
        authority=_OPERATOR,
        is_ours=True,
        examples=(_done({"requesterId": _REQUESTER, "verifyingKey": None}, "there is no key now"),),
    ),
    MethodSpec(
        name="RequesterKeyGet",
        summary="The key that is registered for a requester.",
        tag="requesters",
        params=RequesterKeyGetParams,
        result=RequesterKeyResult,
        space=GeneralError,
        codes=frozenset({GeneralCode.INVALID_PARAMETER, GeneralCode.ACCESS_DENIED}),
        authority=_OPERATOR,
        is_ours=True,
        examples=(
            Example(
                name="none is registered",
                params={"requesterId": _REQUESTER},
                result={"requesterId": _REQUESTER, "verifyingKey": None},
            ),
        ),
    ),
    MethodSpec(
        name="WorkOrderSubmit",
        summary="Submit a work order. Its result, or code 5: ask with WorkOrderGetResult then.",
        tag="work orders",
        params=WorkOrderRequest,
        result=WorkOrderResult,
        space=WorkOrderError,
        codes=_ORDER_CODES,
        waits=True,
        examples=(
            Example(
                name="answered within the time",
                params=_REQUEST | {"responseTimeoutMSecs": 6000},
                result=_RESULT,
            ),
            Example(
                name="accepted, to be asked for",
                params=_REQUEST,
                error={
                    "code": 5,
                    "message": "pending: ask again with WorkOrderGetResult",
                    "data": {"workOrderId": _ORDER},
                },
            ),
        ),
    ),
    MethodSpec(
        name="WorkOrderGetResult",
        summary="An order's result, its failure, or code 5 while there is neither.",
        tag="work orders",
        params=GetResultParams,
        result=WorkOrderResult,
        space=WorkOrderError,
        codes=_ORDER_CODES,
        waits=True,
        examples=(Example(name="a finished order", params={"workOrderId": _ORDER}, result=_RESULT),),
    ),
    MethodSpec(
        name="WorkOrderCancel",
        summary="Withdraw an order that is not finished.",
        tag="work orders",
        params=WorkOrderCancelParams,
        result=None,
        space=WorkOrderError,
        codes=frozenset(
            {
                WorkOrderCode.SUCCESS,
                WorkOrderCode.FAILED,
                WorkOrderCode.INVALID_PARAMETER,
                WorkOrderCode.ACCESS_DENIED,
                WorkOrderCode.BUSY,
            }
        ),
        authority=f"the requester: encryptedRequestHash or signature; or {_OPERATOR}",
        is_ours=True,
        examples=(
            _done(
                {"workOrderId": _ORDER, "requesterId": _REQUESTER, "encryptedRequestHash": "0f" * 48},
                "the order is cancelled",
                {"workOrderId": _ORDER, "state": "cancelled"},
            ),
        ),
    ),
    MethodSpec(
        name="WorkOrderReceiptCreate",
        summary="Create an order's receipt, signed by its requester.",
        tag="receipts",
        params=ReceiptCreateParams,
        result=None,
        space=GeneralError,
        codes=_WRITE - {GeneralCode.ACCESS_DENIED},
        examples=(_done(_RECEIPT, "receipt created", {"workOrderId": _ORDER}),),
    ),
    MethodSpec(
        name="WorkOrderReceiptUpdate",
        summary="Add a signed update to a receipt.",
        tag="receipts",
        params=ReceiptUpdateParams,
        result=None,
        space=GeneralError,
        codes=_WRITE,
        examples=(_done(_UPDATE, "receipt updated", {"workOrderId": _ORDER}),),
    ),
    MethodSpec(
        name="WorkOrderReceiptRetrieve",
        summary="A receipt, and its present status.",
        tag="receipts",
        params=ReceiptRetrieveParams,
        result=ReceiptResult,
        space=GeneralError,
        codes=_READ,
        examples=(
            Example(
                name="of a processed order",
                params={"workOrderId": _ORDER},
                result=_RECEIPT | {"receiptCurrentStatus": 2},
            ),
        ),
    ),
    MethodSpec(
        name="WorkOrderReceiptUpdateRetrieve",
        summary="One update of a receipt, by its number among all or among one updater's.",
        tag="receipts",
        params=ReceiptUpdateRetrieveParams,
        result=ReceiptUpdateResult,
        space=GeneralError,
        codes=_READ,
        examples=(
            Example(
                name="the last one",
                params={"workOrderId": _ORDER, "updateIndex": 0xFFFFFFFF},
                result=_UPDATE | {"updateCount": 2},
            ),
        ),
    ),
    MethodSpec(
        name="WorkOrderReceiptLookUp",
        summary="Find receipts: every criterion is optional, all that are given must match.",
        tag="receipts",
        params=ReceiptLookUpParams,
        result=ReceiptLookUpResult,
        space=GeneralError,
        codes=_READ,
        examples=(
            Example(
                name="a requester's processed orders",
                params={"requesterId": _REQUESTER, "receiptStatus": 2},
                result={"totalCount": 1, "lookupTag": "", "ids": [_ORDER]},
            ),
        ),
    ),
    MethodSpec(
        name="WorkOrderReceiptLookUpNext",
        summary="The next page of a look-up: the same criteria, and the tag under one of its three names.",
        tag="receipts",
        params=ReceiptLookUpNextParams,
        result=ReceiptLookUpResult,
        space=GeneralError,
        codes=_READ | {GeneralCode.NO_MORE_RESULTS},
        examples=(
            Example(
                name="the last page",
                params={"requesterId": _REQUESTER, "lookUpTag": "after-100-of-101"},
                result={"totalCount": 101, "lookupTag": "", "ids": [_ORDER]},
            ),
        ),
    ),
    _pool_method(
        "PoolStatus",
        "What there is to know of the service's pool: its enclaves, keys and manifest.",
        PoolStatusParams,
        PoolStatusResult,
        Example(name="one KME, one WPE", params={}, result=_POOL_STATUS),
    ),
    _pool_method(
        "PoolRotate",
        "Make new encryption keys. Orders sealed to the keys before still open for the manifest's overlap.",
        PoolRotateParams,
        PoolRotateResult,
        Example(name="the second epoch", params={}, result={"epoch": 2}),
    ),
    _pool_method(
        "PoolDrain",
        "Claim no more orders; what is in hand is finished.",
        PoolDrainParams,
        PoolDrainResult,
        Example(name="drained", params={}, result={"draining": True}),
    ),
    _pool_method(
        "PoolChange",
        "Change the pool's manifest. A quorum of its owners has signed the change.",
        PoolChangeParams,
        PoolChangeResult,
        Example(
            name="the second manifest",
            params={"change": '{"manifest":"e30=","signatures":{}}'},
            result={"version": 2},
        ),
    ),
    _pool_method(
        "PoolShares",
        "A recovery file of the pool's present state: shares that open for the owners alone.",
        PoolSharesParams,
        Recovery,
        Example(name="one owner's share", params={}, result=_RECOVERY),
    ),
    _pool_method(
        "PoolRecover",
        "Begin the recovery of a pool whose keys are gone: a KME's key for the shares, and its evidence.",
        PoolRecoverParams,
        PoolRecoverResult,
        Example(
            name="a KME that waits for shares",
            params={"recovery": '{"pool":"","state":"","shares":[]}'},
            result={
                "pool": _POOL_ID,
                "key": "1f" * 1216,
                "proofDataType": "TEE-SGX-DCAP",
                "proofData": {"document": "AAECAw=="},
            },
        ),
    ),
    _pool_method(
        "PoolShare",
        "Hand back an owner's share, sealed to the KME whose evidence the owner has judged.",
        PoolShareParams,
        PoolShareResult,
        Example(
            name="one of two",
            params={"share": '{"pool":"","state":"","threshold":2,"key":"","sealed":""}'},
            result={"shares": 1, "needed": 2, "recovered": False},
        ),
    ),
    MethodSpec(
        name=DISCOVER,
        summary="This document.",
        tag="discovery",
        params=DiscoverParams,
        result=None,
        space=GeneralError,
        codes=frozenset({GeneralCode.INVALID_PARAMETER}),
        is_ours=True,
        examples=(),
    ),
)
"""Every method, in the order in which they are shown."""
