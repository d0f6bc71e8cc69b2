//! A file on its way to a storage: one multipart body, streamed, with its length said beforehand.
//! Proxmox refuses chunked bodies (`pve/facts.md` 3.2).

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Body, Bytes, Frame, SizeHint};
use reqwest::Method;
use reqwest::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE};
use tokio::fs::File;
use tokio::io::{AsyncRead as _, ReadBuf};

use crate::catalog::Request;
use crate::wire::error::{ApiError, Failure};

use super::{Transport, encode_path, transport_failure};

/// Read and sent at a time.
const PIECE: usize = 64 * 1024;

/// The file of an upload.
#[derive(Debug)]
pub(crate) struct FilePart {
    /// The form's field.
    pub(crate) field: &'static str,
    /// What the file is to be called; without quotes, backslashes and control characters.
    pub(crate) name: String,
    pub(crate) file: File,
    /// Bytes that are sent, however long the file becomes meanwhile.
    pub(crate) length: u64,
    /// For the whole of the upload.
    pub(crate) limit: Duration,
}

/// What comes before the file, the file, and what comes after it.
struct Multipart {
    head: Bytes,
    file: File,
    file_left: u64,
    tail: Bytes,
    piece: Vec<u8>,
}

impl Multipart {
    fn new(boundary: &str, fields: &[(String, String)], part: FilePart) -> Self {
        let mut head = String::new();
        for (name, value) in fields {
            head += &format!(
                "--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n"
            );
        }
        head += &format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"{}\"; filename=\"{}\"\r\nContent-Type: application/octet-stream\r\n\r\n",
            part.field, part.name
        );
        Self {
            head: head.into(),
            file: part.file,
            file_left: part.length,
            tail: format!("\r\n--{boundary}--\r\n").into(),
            piece: vec![0; PIECE],
        }
    }

    fn left(&self) -> u64 {
        self.file_left + self.head.len() as u64 + self.tail.len() as u64
    }

    fn poll_file(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
        let most = usize::try_from(self.file_left).unwrap_or(PIECE).min(PIECE);
        let mut buffer = ReadBuf::new(&mut self.piece[..most]);
        match Pin::new(&mut self.file).poll_read(context, &mut buffer) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            // The length is promised already; a shorter body would leave both sides waiting.
            Poll::Ready(Ok(())) if buffer.filled().is_empty() => Poll::Ready(Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the file became shorter while it was sent",
            ))),
            Poll::Ready(Ok(())) => {
                let bytes = Bytes::copy_from_slice(buffer.filled());
                self.file_left -= bytes.len() as u64;
                Poll::Ready(Ok(bytes))
            }
        }
    }
}

impl Body for Multipart {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if !self.head.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.head)))));
        }
        if self.file_left > 0 {
            return self.poll_file(context).map(|read| Some(read.map(Frame::data)));
        }
        if self.tail.is_empty() {
            return Poll::Ready(None);
        }
        Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.tail)))))
    }

    fn is_end_stream(&self) -> bool {
        self.left() == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left())
    }
}

/// Sixteen random bytes: no file holds them by accident, and none can be made to.
fn boundary() -> String {
    let random = || RandomState::new().build_hasher().finish();
    format!("writ-{:016x}{:016x}", random(), random())
}

impl Transport {
    /// Sends a request whose parameters are the fields of a form, in order, and a file after them.
    /// Once, whatever happens.
    pub(crate) async fn upload<T>(&self, request: &Request<T>, part: FilePart) -> Result<T, ApiError> {
        if let Some(why) = &request.wrong {
            return Err(self.refuse(request, why));
        }
        let path = encode_path(&request.segments).map_err(|why| self.refuse(request, why))?;
        let error = |failure| self.fault(request, failure);
        self.check_pause().map_err(error)?;
        let closed = |_| error(Failure::Invalid { why: "the client was closed".to_owned() });
        let _slow = self.slow.acquire().await.map_err(closed)?;
        let _permit = self.permits.acquire().await.map_err(closed)?;
        self.check_pause().map_err(error)?;

        let boundary = boundary();
        let limit = part.limit;
        let body = Multipart::new(&boundary, &request.params, part);
        let sent = self
            .writes
            .request(Method::POST, self.endpoint.api(&path))
            .header(AUTHORIZATION, self.authorization.clone())
            .header(CONTENT_TYPE, format!("multipart/form-data; boundary={boundary}"))
            .header(CONTENT_LENGTH, body.left())
            .timeout(limit)
            .body(reqwest::Body::wrap(body))
            .send()
            .await;
        let data = match sent {
            Ok(response) => self.receive(&request.call.shape, response).await,
            Err(cause) => Err(transport_failure(&cause)),
        };
        // Its own sentence names the limit of ordinary requests.
        let data = data.map_err(|failure| match failure {
            Failure::Timeout => {
                Failure::Interrupted { cause: format!("not done within {} s", limit.as_secs()) }
            }
            other => other,
        });
        self.read(request, data.map_err(error)?).map_err(error)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    async fn multipart(bytes: &[u8], length: u64) -> Multipart {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        std::io::Seek::rewind(&mut file).unwrap();
        let part = FilePart {
            field: "filename",
            name: "a.iso".to_owned(),
            file: File::from_std(file),
            length,
            limit: Duration::ZERO,
        };
        Multipart::new("x", &[], part)
    }

    async fn drain(mut body: Multipart) -> io::Result<u64> {
        let mut sent = 0;
        loop {
            let announced = body.left();
            match std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
                None => return Ok(sent),
                Some(frame) => {
                    let bytes = frame?.into_data().unwrap_or_default();
                    assert_eq!(body.left(), announced - bytes.len() as u64);
                    sent += bytes.len() as u64;
                }
            }
        }
    }

    #[tokio::test]
    async fn the_body_is_as_long_as_it_says_or_breaks_off() {
        let body = multipart(b"0123456789", 10).await;
        let announced = body.left();
        assert_eq!(drain(body).await.unwrap(), announced);
        // A file that grew meanwhile: only what was promised.
        let body = multipart(b"0123456789", 4).await;
        let announced = body.left();
        assert_eq!(drain(body).await.unwrap(), announced);
        // One that shrank: no silence, no padding.
        let error = drain(multipart(b"0123456789", 11).await).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn boundaries_differ() {
        assert!(boundary() != boundary() && boundary().len() > 32);
    }
}
