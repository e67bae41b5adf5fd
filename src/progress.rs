//! Who is told how far the bytes have come.

/// Shows work as it goes; the library calls it, the command line draws it.
pub trait Progress: Send + Sync {
    /// Work of `bytes` bytes begins; it is over when the bar is dropped.
    fn start(&self, label: &str, bytes: u64) -> Box<dyn Bar>;
}

/// One piece of work under way.
pub trait Bar: Send + Sync {
    /// This many bytes more are done.
    fn advance(&self, bytes: u64);
}

/// Shows nothing.
pub struct Silent;

impl Progress for Silent {
    fn start(&self, _: &str, _: u64) -> Box<dyn Bar> {
        Box::new(Silent)
    }
}

impl Bar for Silent {
    fn advance(&self, _: u64) {}
}

/// Reads on, and tells a bar how far it is.
pub struct WatchedReader<R> {
    reader: R,
    bar: Box<dyn Bar>,
}

impl<R> WatchedReader<R> {
    /// Reads `reader` while `bar` watches.
    pub fn new(reader: R, bar: Box<dyn Bar>) -> Self {
        WatchedReader { reader, bar }
    }
}

impl<R: std::io::Read> std::io::Read for WatchedReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.reader.read(buffer)?;
        self.bar.advance(read as u64);
        Ok(read)
    }
}
