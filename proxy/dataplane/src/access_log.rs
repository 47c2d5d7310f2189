//! Access logs: workers format, one thread writes.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use outrigger_config::{AccessLog, AccessLogSink};
use outrigger_http::StreamState;

/// Bytes that wait for the writer; beyond that lines are dropped and counted.
const QUEUE_BYTES_MAX: usize = 16 << 20;
/// How long the writer lets lines gather: waking it for each would cost more than the line.
const GATHERED_FOR: Duration = Duration::from_millis(10);

enum Message {
    Line(AccessLogSink, Vec<u8>),
    /// Answers when everything before it is written.
    Flush(Sender<()>),
}

/// The way to the writing thread; cheap to clone.
#[derive(Clone)]
pub(crate) struct AccessLogWriter {
    sender: Sender<Message>,
    shared: Arc<Shared>,
}

impl std::fmt::Debug for AccessLogWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AccessLogWriter")
    }
}

#[derive(Default)]
struct Shared {
    queued: AtomicUsize,
    dropped: AtomicU64,
    reopen: AtomicBool,
}

impl AccessLogWriter {
    pub(crate) fn start() -> io::Result<AccessLogWriter> {
        let (sender, receiver) = channel();
        let shared = Arc::new(Shared::default());
        let for_thread = shared.clone();
        std::thread::Builder::new().name("access-log".to_owned()).spawn(move || write_loop(&receiver, &for_thread))?;
        Ok(AccessLogWriter { sender, shared })
    }

    /// Formats a line and hands it over.
    pub(crate) fn write(&self, log: &AccessLog, state: &StreamState) {
        let mut line = Vec::with_capacity(256);
        log.format.write(state, &mut line);
        let queued = self.shared.queued.fetch_add(line.len(), Ordering::Relaxed);
        let length = line.len();
        if queued > QUEUE_BYTES_MAX || self.sender.send(Message::Line(log.sink.clone(), line)).is_err() {
            self.shared.queued.fetch_sub(length, Ordering::Relaxed);
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Lines that were dropped because the writer couldn't keep up.
    pub(crate) fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }

    /// Files are opened anew at their next line (log rotation).
    pub(crate) fn reopen(&self) {
        self.shared.reopen.store(true, Ordering::Relaxed);
    }

    /// Waits until everything is written.
    pub(crate) fn flush(&self) {
        let (sender, receiver) = channel();
        if self.sender.send(Message::Flush(sender)).is_ok() {
            _ = receiver.recv_timeout(Duration::from_secs(5));
        }
    }
}

fn write_loop(receiver: &Receiver<Message>, shared: &Shared) {
    let mut files: HashMap<AccessLogSink, File> = HashMap::new();
    while let Ok(first) = receiver.recv() {
        if matches!(first, Message::Line(..)) {
            std::thread::sleep(GATHERED_FOR);
        }
        if shared.reopen.swap(false, Ordering::Relaxed) {
            files.clear();
        }
        // What has piled up is written by one system call for each file.
        let mut batches: HashMap<AccessLogSink, Vec<u8>> = HashMap::new();
        let mut flushes = Vec::new();
        let mut next = Some(first);
        while let Some(message) = next {
            match message {
                Message::Line(sink, line) => {
                    shared.queued.fetch_sub(line.len(), Ordering::Relaxed);
                    batches.entry(sink).or_default().extend_from_slice(&line);
                }
                Message::Flush(sender) => flushes.push(sender),
            }
            next = receiver.try_recv().ok();
        }
        for (sink, bytes) in batches {
            if let Err(error) = write_batch(&mut files, &sink, &bytes) {
                shared.dropped.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(?sink, "access log: {error}");
                files.remove(&sink);
            }
        }
        for sender in flushes {
            _ = sender.send(());
        }
    }
}

fn write_batch(files: &mut HashMap<AccessLogSink, File>, sink: &AccessLogSink, bytes: &[u8]) -> io::Result<()> {
    match sink {
        AccessLogSink::Stdout => {
            let mut out = io::stdout().lock();
            out.write_all(bytes)?;
            out.flush()
        }
        AccessLogSink::Stderr => io::stderr().lock().write_all(bytes),
        // There is no line.
        AccessLogSink::Wasm(_) => Ok(()),
        AccessLogSink::File(path) => {
            if !files.contains_key(sink) {
                files.insert(sink.clone(), OpenOptions::new().create(true).append(true).open(path)?);
            }
            match files.get_mut(sink) {
                Some(file) => file.write_all(bytes),
                None => Ok(()),
            }
        }
    }
}
