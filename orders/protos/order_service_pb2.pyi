import datetime

from google.protobuf import empty_pb2 as _empty_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class CreateOrderRequest(_message.Message):
    __slots__ = ("order_id", "customer_id", "user_id", "user_email", "items", "amount", "currency", "description", "payment_method", "metadata", "total_amount", "capture", "decimal_amount", "decimal_total_amount")
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ORDER_ID_FIELD_NUMBER: _ClassVar[int]
    CUSTOMER_ID_FIELD_NUMBER: _ClassVar[int]
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    USER_EMAIL_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_FIELD_NUMBER: _ClassVar[int]
    CURRENCY_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    PAYMENT_METHOD_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    TOTAL_AMOUNT_FIELD_NUMBER: _ClassVar[int]
    CAPTURE_FIELD_NUMBER: _ClassVar[int]
    DECIMAL_AMOUNT_FIELD_NUMBER: _ClassVar[int]
    DECIMAL_TOTAL_AMOUNT_FIELD_NUMBER: _ClassVar[int]
    order_id: str
    customer_id: str
    user_id: str
    user_email: str
    items: _containers.RepeatedCompositeFieldContainer[NewItem]
    amount: float
    currency: str
    description: str
    payment_method: str
    metadata: _containers.ScalarMap[str, str]
    total_amount: float
    capture: str
    decimal_amount: str
    decimal_total_amount: str
    def __init__(self, order_id: _Optional[str] = ..., customer_id: _Optional[str] = ..., user_id: _Optional[str] = ..., user_email: _Optional[str] = ..., items: _Optional[_Iterable[_Union[NewItem, _Mapping]]] = ..., amount: _Optional[float] = ..., currency: _Optional[str] = ..., description: _Optional[str] = ..., payment_method: _Optional[str] = ..., metadata: _Optional[_Mapping[str, str]] = ..., total_amount: _Optional[float] = ..., capture: _Optional[str] = ..., decimal_amount: _Optional[str] = ..., decimal_total_amount: _Optional[str] = ...) -> None: ...

class NewItem(_message.Message):
    __slots__ = ("product_id", "sku", "quantity", "price", "type", "name", "amount", "of", "decimal_price", "decimal_amount")
    PRODUCT_ID_FIELD_NUMBER: _ClassVar[int]
    SKU_FIELD_NUMBER: _ClassVar[int]
    QUANTITY_FIELD_NUMBER: _ClassVar[int]
    PRICE_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_FIELD_NUMBER: _ClassVar[int]
    OF_FIELD_NUMBER: _ClassVar[int]
    DECIMAL_PRICE_FIELD_NUMBER: _ClassVar[int]
    DECIMAL_AMOUNT_FIELD_NUMBER: _ClassVar[int]
    product_id: str
    sku: str
    quantity: int
    price: float
    type: str
    name: str
    amount: float
    of: int
    decimal_price: str
    decimal_amount: str
    def __init__(self, product_id: _Optional[str] = ..., sku: _Optional[str] = ..., quantity: _Optional[int] = ..., price: _Optional[float] = ..., type: _Optional[str] = ..., name: _Optional[str] = ..., amount: _Optional[float] = ..., of: _Optional[int] = ..., decimal_price: _Optional[str] = ..., decimal_amount: _Optional[str] = ...) -> None: ...

class GetOrderRequest(_message.Message):
    __slots__ = ("order_id",)
    ORDER_ID_FIELD_NUMBER: _ClassVar[int]
    order_id: str
    def __init__(self, order_id: _Optional[str] = ...) -> None: ...

class CancelOrderRequest(_message.Message):
    __slots__ = ("order_id", "reason", "version")
    ORDER_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    order_id: str
    reason: str
    version: int
    def __init__(self, order_id: _Optional[str] = ..., reason: _Optional[str] = ..., version: _Optional[int] = ...) -> None: ...

class FindOrdersRequest(_message.Message):
    __slots__ = ("status", "customer_id", "user_id", "user_email", "created_from", "created_to", "updated_since", "sort", "limit", "number", "sku", "cursor")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    CUSTOMER_ID_FIELD_NUMBER: _ClassVar[int]
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    USER_EMAIL_FIELD_NUMBER: _ClassVar[int]
    CREATED_FROM_FIELD_NUMBER: _ClassVar[int]
    CREATED_TO_FIELD_NUMBER: _ClassVar[int]
    UPDATED_SINCE_FIELD_NUMBER: _ClassVar[int]
    SORT_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    SKU_FIELD_NUMBER: _ClassVar[int]
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    status: str
    customer_id: str
    user_id: str
    user_email: str
    created_from: _timestamp_pb2.Timestamp
    created_to: _timestamp_pb2.Timestamp
    updated_since: _timestamp_pb2.Timestamp
    sort: str
    limit: int
    number: int
    sku: str
    cursor: str
    def __init__(self, status: _Optional[str] = ..., customer_id: _Optional[str] = ..., user_id: _Optional[str] = ..., user_email: _Optional[str] = ..., created_from: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., created_to: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., updated_since: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., sort: _Optional[str] = ..., limit: _Optional[int] = ..., number: _Optional[int] = ..., sku: _Optional[str] = ..., cursor: _Optional[str] = ...) -> None: ...

class FindOrdersResponse(_message.Message):
    __slots__ = ("orders", "next_cursor")
    ORDERS_FIELD_NUMBER: _ClassVar[int]
    NEXT_CURSOR_FIELD_NUMBER: _ClassVar[int]
    orders: _containers.RepeatedCompositeFieldContainer[Order]
    next_cursor: str
    def __init__(self, orders: _Optional[_Iterable[_Union[Order, _Mapping]]] = ..., next_cursor: _Optional[str] = ...) -> None: ...

class ListOrdersResponse(_message.Message):
    __slots__ = ("orders",)
    ORDERS_FIELD_NUMBER: _ClassVar[int]
    orders: _containers.RepeatedCompositeFieldContainer[Order]
    def __init__(self, orders: _Optional[_Iterable[_Union[Order, _Mapping]]] = ...) -> None: ...

class Order(_message.Message):
    __slots__ = ("order_id", "customer_id", "user_id", "user_email", "status", "total_amount", "currency", "version", "items", "description", "payment_method", "payment_id", "fail_reason", "created_at", "updated_at", "metadata", "tax_amount", "discount_amount", "shipping_amount", "refunded_amount", "decimal_total_amount", "decimal_tax_amount", "decimal_discount_amount", "decimal_shipping_amount", "decimal_refunded_amount", "number")
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ORDER_ID_FIELD_NUMBER: _ClassVar[int]
    CUSTOMER_ID_FIELD_NUMBER: _ClassVar[int]
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    USER_EMAIL_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_AMOUNT_FIELD_NUMBER: _ClassVar[int]
    CURRENCY_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    PAYMENT_METHOD_FIELD_NUMBER: _ClassVar[int]
    PAYMENT_ID_FIELD_NUMBER: _ClassVar[int]
    FAIL_REASON_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    UPDATED_AT_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    TAX_AMOUNT_FIELD_NUMBER: _ClassVar[int]
    DISCOUNT_AMOUNT_FIELD_NUMBER: _ClassVar[int]
    SHIPPING_AMOUNT_FIELD_NUMBER: _ClassVar[int]
    REFUNDED_AMOUNT_FIELD_NUMBER: _ClassVar[int]
    DECIMAL_TOTAL_AMOUNT_FIELD_NUMBER: _ClassVar[int]
    DECIMAL_TAX_AMOUNT_FIELD_NUMBER: _ClassVar[int]
    DECIMAL_DISCOUNT_AMOUNT_FIELD_NUMBER: _ClassVar[int]
    DECIMAL_SHIPPING_AMOUNT_FIELD_NUMBER: _ClassVar[int]
    DECIMAL_REFUNDED_AMOUNT_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    order_id: str
    customer_id: str
    user_id: str
    user_email: str
    status: str
    total_amount: float
    currency: str
    version: int
    items: _containers.RepeatedCompositeFieldContainer[Item]
    description: str
    payment_method: str
    payment_id: str
    fail_reason: str
    created_at: _timestamp_pb2.Timestamp
    updated_at: _timestamp_pb2.Timestamp
    metadata: _containers.ScalarMap[str, str]
    tax_amount: float
    discount_amount: float
    shipping_amount: float
    refunded_amount: float
    decimal_total_amount: str
    decimal_tax_amount: str
    decimal_discount_amount: str
    decimal_shipping_amount: str
    decimal_refunded_amount: str
    number: int
    def __init__(self, order_id: _Optional[str] = ..., customer_id: _Optional[str] = ..., user_id: _Optional[str] = ..., user_email: _Optional[str] = ..., status: _Optional[str] = ..., total_amount: _Optional[float] = ..., currency: _Optional[str] = ..., version: _Optional[int] = ..., items: _Optional[_Iterable[_Union[Item, _Mapping]]] = ..., description: _Optional[str] = ..., payment_method: _Optional[str] = ..., payment_id: _Optional[str] = ..., fail_reason: _Optional[str] = ..., created_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., updated_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., metadata: _Optional[_Mapping[str, str]] = ..., tax_amount: _Optional[float] = ..., discount_amount: _Optional[float] = ..., shipping_amount: _Optional[float] = ..., refunded_amount: _Optional[float] = ..., decimal_total_amount: _Optional[str] = ..., decimal_tax_amount: _Optional[str] = ..., decimal_discount_amount: _Optional[str] = ..., decimal_shipping_amount: _Optional[str] = ..., decimal_refunded_amount: _Optional[str] = ..., number: _Optional[int] = ...) -> None: ...

class Item(_message.Message):
    __slots__ = ("product_id", "sku", "name", "quantity", "price", "position", "type", "of", "decimal_price", "free_line")
    PRODUCT_ID_FIELD_NUMBER: _ClassVar[int]
    SKU_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    QUANTITY_FIELD_NUMBER: _ClassVar[int]
    PRICE_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    OF_FIELD_NUMBER: _ClassVar[int]
    DECIMAL_PRICE_FIELD_NUMBER: _ClassVar[int]
    FREE_LINE_FIELD_NUMBER: _ClassVar[int]
    product_id: str
    sku: str
    name: str
    quantity: int
    price: float
    position: int
    type: str
    of: int
    decimal_price: str
    free_line: bool
    def __init__(self, product_id: _Optional[str] = ..., sku: _Optional[str] = ..., name: _Optional[str] = ..., quantity: _Optional[int] = ..., price: _Optional[float] = ..., position: _Optional[int] = ..., type: _Optional[str] = ..., of: _Optional[int] = ..., decimal_price: _Optional[str] = ..., free_line: _Optional[bool] = ...) -> None: ...
