from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class AssignmentKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ASSIGNMENT_KIND_UNSPECIFIED: _ClassVar[AssignmentKind]
    ASSIGNMENT_KIND_STUDY: _ClassVar[AssignmentKind]
    ASSIGNMENT_KIND_ROUND: _ClassVar[AssignmentKind]

class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STATE_UNSPECIFIED: _ClassVar[State]
    STATE_RECEIVED: _ClassVar[State]
    STATE_PENDING: _ClassVar[State]
    STATE_RUNNING: _ClassVar[State]
    STATE_DELIVERING: _ClassVar[State]
    STATE_DONE: _ClassVar[State]
    STATE_REFUSED: _ClassVar[State]
    STATE_FAILED: _ClassVar[State]
    STATE_EXPIRED: _ClassVar[State]
ASSIGNMENT_KIND_UNSPECIFIED: AssignmentKind
ASSIGNMENT_KIND_STUDY: AssignmentKind
ASSIGNMENT_KIND_ROUND: AssignmentKind
STATE_UNSPECIFIED: State
STATE_RECEIVED: State
STATE_PENDING: State
STATE_RUNNING: State
STATE_DELIVERING: State
STATE_DONE: State
STATE_REFUSED: State
STATE_FAILED: State
STATE_EXPIRED: State

class EnrolRequest(_message.Message):
    __slots__ = ("site", "secret", "csr_der", "identity_public", "signature")
    SITE_FIELD_NUMBER: _ClassVar[int]
    SECRET_FIELD_NUMBER: _ClassVar[int]
    CSR_DER_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_PUBLIC_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    site: str
    secret: bytes
    csr_der: bytes
    identity_public: bytes
    signature: bytes
    def __init__(self, site: _Optional[str] = ..., secret: _Optional[bytes] = ..., csr_der: _Optional[bytes] = ..., identity_public: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class EnrolReply(_message.Message):
    __slots__ = ("certificate_pem", "trust", "trust_signature")
    CERTIFICATE_PEM_FIELD_NUMBER: _ClassVar[int]
    TRUST_FIELD_NUMBER: _ClassVar[int]
    TRUST_SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    certificate_pem: bytes
    trust: bytes
    trust_signature: bytes
    def __init__(self, certificate_pem: _Optional[bytes] = ..., trust: _Optional[bytes] = ..., trust_signature: _Optional[bytes] = ...) -> None: ...

class RenewRequest(_message.Message):
    __slots__ = ("csr_der", "signature")
    CSR_DER_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    csr_der: bytes
    signature: bytes
    def __init__(self, csr_der: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class RenewReply(_message.Message):
    __slots__ = ("certificate_pem",)
    CERTIFICATE_PEM_FIELD_NUMBER: _ClassVar[int]
    certificate_pem: bytes
    def __init__(self, certificate_pem: _Optional[bytes] = ...) -> None: ...

class WatchRequest(_message.Message):
    __slots__ = ("version",)
    VERSION_FIELD_NUMBER: _ClassVar[int]
    version: str
    def __init__(self, version: _Optional[str] = ...) -> None: ...

class Blob(_message.Message):
    __slots__ = ("name", "digest", "size_bytes", "data")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    name: str
    digest: str
    size_bytes: int
    data: bytes
    def __init__(self, name: _Optional[str] = ..., digest: _Optional[str] = ..., size_bytes: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class Assignment(_message.Message):
    __slots__ = ("id", "kind", "study_digest", "document", "signature", "blobs")
    ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    STUDY_DIGEST_FIELD_NUMBER: _ClassVar[int]
    DOCUMENT_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    BLOBS_FIELD_NUMBER: _ClassVar[int]
    id: str
    kind: AssignmentKind
    study_digest: str
    document: bytes
    signature: bytes
    blobs: _containers.RepeatedCompositeFieldContainer[Blob]
    def __init__(self, id: _Optional[str] = ..., kind: _Optional[_Union[AssignmentKind, str]] = ..., study_digest: _Optional[str] = ..., document: _Optional[bytes] = ..., signature: _Optional[bytes] = ..., blobs: _Optional[_Iterable[_Union[Blob, _Mapping]]] = ...) -> None: ...

class SiteReport(_message.Message):
    __slots__ = ("version", "paused", "spool_parcels", "spool_bytes", "ledger_head", "journal_head", "assignment_id", "state", "code", "error_id", "counts", "log_sizes", "witnessed", "catalogue")
    class CountsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PAUSED_FIELD_NUMBER: _ClassVar[int]
    SPOOL_PARCELS_FIELD_NUMBER: _ClassVar[int]
    SPOOL_BYTES_FIELD_NUMBER: _ClassVar[int]
    LEDGER_HEAD_FIELD_NUMBER: _ClassVar[int]
    JOURNAL_HEAD_FIELD_NUMBER: _ClassVar[int]
    ASSIGNMENT_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    ERROR_ID_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    LOG_SIZES_FIELD_NUMBER: _ClassVar[int]
    WITNESSED_FIELD_NUMBER: _ClassVar[int]
    CATALOGUE_FIELD_NUMBER: _ClassVar[int]
    version: str
    paused: bool
    spool_parcels: int
    spool_bytes: int
    ledger_head: str
    journal_head: str
    assignment_id: str
    state: State
    code: str
    error_id: str
    counts: _containers.ScalarMap[str, int]
    log_sizes: _containers.RepeatedScalarFieldContainer[int]
    witnessed: int
    catalogue: Catalogue
    def __init__(self, version: _Optional[str] = ..., paused: _Optional[bool] = ..., spool_parcels: _Optional[int] = ..., spool_bytes: _Optional[int] = ..., ledger_head: _Optional[str] = ..., journal_head: _Optional[str] = ..., assignment_id: _Optional[str] = ..., state: _Optional[_Union[State, str]] = ..., code: _Optional[str] = ..., error_id: _Optional[str] = ..., counts: _Optional[_Mapping[str, int]] = ..., log_sizes: _Optional[_Iterable[int]] = ..., witnessed: _Optional[int] = ..., catalogue: _Optional[_Union[Catalogue, _Mapping]] = ...) -> None: ...

class Catalogue(_message.Message):
    __slots__ = ("datasets",)
    DATASETS_FIELD_NUMBER: _ClassVar[int]
    datasets: _containers.RepeatedCompositeFieldContainer[AdvertisedDataset]
    def __init__(self, datasets: _Optional[_Iterable[_Union[AdvertisedDataset, _Mapping]]] = ...) -> None: ...

class AdvertisedDataset(_message.Message):
    __slots__ = ("name", "rows", "columns", "lanes", "kinds")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    LANES_FIELD_NUMBER: _ClassVar[int]
    KINDS_FIELD_NUMBER: _ClassVar[int]
    name: str
    rows: int
    columns: _containers.RepeatedCompositeFieldContainer[AdvertisedColumn]
    lanes: _containers.RepeatedScalarFieldContainer[str]
    kinds: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, name: _Optional[str] = ..., rows: _Optional[int] = ..., columns: _Optional[_Iterable[_Union[AdvertisedColumn, _Mapping]]] = ..., lanes: _Optional[_Iterable[str]] = ..., kinds: _Optional[_Iterable[str]] = ...) -> None: ...

class AdvertisedColumn(_message.Message):
    __slots__ = ("name", "role", "type")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    name: str
    role: str
    type: str
    def __init__(self, name: _Optional[str] = ..., role: _Optional[str] = ..., type: _Optional[str] = ...) -> None: ...

class ReportReply(_message.Message):
    __slots__ = ("server_time", "log")
    SERVER_TIME_FIELD_NUMBER: _ClassVar[int]
    LOG_FIELD_NUMBER: _ClassVar[int]
    server_time: float
    log: LogNews
    def __init__(self, server_time: _Optional[float] = ..., log: _Optional[_Union[LogNews, _Mapping]] = ...) -> None: ...

class LogNews(_message.Message):
    __slots__ = ("size", "checkpoint", "links", "witnessed")
    SIZE_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    LINKS_FIELD_NUMBER: _ClassVar[int]
    WITNESSED_FIELD_NUMBER: _ClassVar[int]
    size: int
    checkpoint: str
    links: _containers.RepeatedCompositeFieldContainer[LogLink]
    witnessed: str
    def __init__(self, size: _Optional[int] = ..., checkpoint: _Optional[str] = ..., links: _Optional[_Iterable[_Union[LogLink, _Mapping]]] = ..., witnessed: _Optional[str] = ...) -> None: ...

class LogLink(_message.Message):
    __slots__ = ("size", "consistency")
    SIZE_FIELD_NUMBER: _ClassVar[int]
    CONSISTENCY_FIELD_NUMBER: _ClassVar[int]
    size: int
    consistency: bytes
    def __init__(self, size: _Optional[int] = ..., consistency: _Optional[bytes] = ...) -> None: ...

class OpenRequest(_message.Message):
    __slots__ = ("parcel_id", "study_digest", "content_type", "size_bytes", "digest", "assignment_id", "data")
    PARCEL_ID_FIELD_NUMBER: _ClassVar[int]
    STUDY_DIGEST_FIELD_NUMBER: _ClassVar[int]
    CONTENT_TYPE_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    ASSIGNMENT_ID_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    parcel_id: str
    study_digest: str
    content_type: str
    size_bytes: int
    digest: str
    assignment_id: str
    data: bytes
    def __init__(self, parcel_id: _Optional[str] = ..., study_digest: _Optional[str] = ..., content_type: _Optional[str] = ..., size_bytes: _Optional[int] = ..., digest: _Optional[str] = ..., assignment_id: _Optional[str] = ..., data: _Optional[bytes] = ...) -> None: ...

class OpenReply(_message.Message):
    __slots__ = ("offset", "committed", "receipt")
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    COMMITTED_FIELD_NUMBER: _ClassVar[int]
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    offset: int
    committed: bool
    receipt: CommitReply
    def __init__(self, offset: _Optional[int] = ..., committed: _Optional[bool] = ..., receipt: _Optional[_Union[CommitReply, _Mapping]] = ...) -> None: ...

class Chunk(_message.Message):
    __slots__ = ("parcel_id", "offset", "data")
    PARCEL_ID_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    parcel_id: str
    offset: int
    data: bytes
    def __init__(self, parcel_id: _Optional[str] = ..., offset: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class UploadReply(_message.Message):
    __slots__ = ("offset",)
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    offset: int
    def __init__(self, offset: _Optional[int] = ...) -> None: ...

class CommitRequest(_message.Message):
    __slots__ = ("parcel_id",)
    PARCEL_ID_FIELD_NUMBER: _ClassVar[int]
    parcel_id: str
    def __init__(self, parcel_id: _Optional[str] = ...) -> None: ...

class CommitReply(_message.Message):
    __slots__ = ("parcel_id", "digest", "index", "proof", "checkpoint")
    PARCEL_ID_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    PROOF_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    parcel_id: str
    digest: str
    index: int
    proof: _containers.RepeatedScalarFieldContainer[str]
    checkpoint: str
    def __init__(self, parcel_id: _Optional[str] = ..., digest: _Optional[str] = ..., index: _Optional[int] = ..., proof: _Optional[_Iterable[str]] = ..., checkpoint: _Optional[str] = ...) -> None: ...

class CarryRequest(_message.Message):
    __slots__ = ("parcels",)
    PARCELS_FIELD_NUMBER: _ClassVar[int]
    parcels: _containers.RepeatedCompositeFieldContainer[OpenRequest]
    def __init__(self, parcels: _Optional[_Iterable[_Union[OpenRequest, _Mapping]]] = ...) -> None: ...

class CarryReply(_message.Message):
    __slots__ = ("parcels", "checkpoint")
    PARCELS_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    parcels: _containers.RepeatedCompositeFieldContainer[Carried]
    checkpoint: str
    def __init__(self, parcels: _Optional[_Iterable[_Union[Carried, _Mapping]]] = ..., checkpoint: _Optional[str] = ...) -> None: ...

class Carried(_message.Message):
    __slots__ = ("code", "receipt")
    CODE_FIELD_NUMBER: _ClassVar[int]
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    code: str
    receipt: CommitReply
    def __init__(self, code: _Optional[str] = ..., receipt: _Optional[_Union[CommitReply, _Mapping]] = ...) -> None: ...

class LandedRequest(_message.Message):
    __slots__ = ("start",)
    START_FIELD_NUMBER: _ClassVar[int]
    start: int
    def __init__(self, start: _Optional[int] = ...) -> None: ...

class LandedParcel(_message.Message):
    __slots__ = ("parcel_id", "digest", "index", "proof", "assignment_id", "content_type", "size_bytes", "done")
    PARCEL_ID_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    PROOF_FIELD_NUMBER: _ClassVar[int]
    ASSIGNMENT_ID_FIELD_NUMBER: _ClassVar[int]
    CONTENT_TYPE_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    parcel_id: str
    digest: str
    index: int
    proof: _containers.RepeatedScalarFieldContainer[str]
    assignment_id: str
    content_type: str
    size_bytes: int
    done: bool
    def __init__(self, parcel_id: _Optional[str] = ..., digest: _Optional[str] = ..., index: _Optional[int] = ..., proof: _Optional[_Iterable[str]] = ..., assignment_id: _Optional[str] = ..., content_type: _Optional[str] = ..., size_bytes: _Optional[int] = ..., done: _Optional[bool] = ...) -> None: ...

class LandedReply(_message.Message):
    __slots__ = ("parcels", "assignments", "checkpoint", "more", "ledger_head", "journal_head")
    PARCELS_FIELD_NUMBER: _ClassVar[int]
    ASSIGNMENTS_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    LEDGER_HEAD_FIELD_NUMBER: _ClassVar[int]
    JOURNAL_HEAD_FIELD_NUMBER: _ClassVar[int]
    parcels: _containers.RepeatedCompositeFieldContainer[LandedParcel]
    assignments: _containers.RepeatedCompositeFieldContainer[Assignment]
    checkpoint: str
    more: bool
    ledger_head: str
    journal_head: str
    def __init__(self, parcels: _Optional[_Iterable[_Union[LandedParcel, _Mapping]]] = ..., assignments: _Optional[_Iterable[_Union[Assignment, _Mapping]]] = ..., checkpoint: _Optional[str] = ..., more: _Optional[bool] = ..., ledger_head: _Optional[str] = ..., journal_head: _Optional[str] = ...) -> None: ...

class FetchRequest(_message.Message):
    __slots__ = ("digest", "offset")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    digest: str
    offset: int
    def __init__(self, digest: _Optional[str] = ..., offset: _Optional[int] = ...) -> None: ...

class ProveRequest(_message.Message):
    __slots__ = ("index", "size", "to")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    TO_FIELD_NUMBER: _ClassVar[int]
    index: int
    size: int
    to: int
    def __init__(self, index: _Optional[int] = ..., size: _Optional[int] = ..., to: _Optional[int] = ...) -> None: ...

class ProveReply(_message.Message):
    __slots__ = ("checkpoint", "inclusion", "consistency")
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    INCLUSION_FIELD_NUMBER: _ClassVar[int]
    CONSISTENCY_FIELD_NUMBER: _ClassVar[int]
    checkpoint: str
    inclusion: _containers.RepeatedScalarFieldContainer[str]
    consistency: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, checkpoint: _Optional[str] = ..., inclusion: _Optional[_Iterable[str]] = ..., consistency: _Optional[_Iterable[str]] = ...) -> None: ...
