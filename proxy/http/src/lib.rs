//! What an HTTP stream is made of, without I/O: names, headers, heads, body buffers and the state of one stream.
//!
//! The codecs of the data plane fill these types, filters (built in and Proxy-Wasm) read and change them, routing and
//! access logs read them. Nothing here knows a socket, a runtime or a configuration.
//!
//! Promises: header order and duplicates are kept; names are lower case and valid tokens (RFC 9110 §5.1); values never
//! hold CR, LF or NUL; so whatever a filter did, a head can be written to a peer as it is.

mod address;
mod body;
mod flags;
mod grpc;
mod head;
mod headers;
mod hex;
mod metadata;
mod name;
mod scan;
mod stream;
mod tls;

pub use address::EndpointAddress;
pub use body::BodyBuffer;
pub use flags::ResponseFlags;
pub use grpc::grpc_status_of_http;
pub use head::{Method, RequestHead, ResponseHead, Scheme, Version};
pub use headers::{Headers, InvalidValue, valid_value};
pub use hex::hex;
pub use metadata::{Metadata, MetadataStruct, MetadataValue, StreamMetadata};
pub use name::{HeaderName, InvalidName, Known, is_token_byte};
pub use scan::find_below;
pub use stream::{
    ClientSocket, CloseType, Closed, ConnectionInfo, Direction, DownstreamInfo, ListenerInfo, LogType, ProxyEntry,
    StreamEvent, StreamExtras, StreamInfo, StreamState, TimingPoint, Timings, UpstreamConnection, UpstreamInfo,
    WireBytes,
};
pub use tls::{CertificateInfo, TlsInfo};
