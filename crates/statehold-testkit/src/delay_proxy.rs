//! A server seen from further away: what goes through arrives half a round trip later.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};

/// How much is read at once, in bytes.
const READ_BYTES: usize = 64 * 1024;
/// How many reads may be under way in one direction: the window of the connection.
const READS_UNDER_WAY: usize = 1_024;

/// A proxy that adds a round-trip time to every connection, until it is dropped.
#[derive(Debug)]
pub struct DelayProxy {
    address: SocketAddr,
    accepting: JoinHandle<()>,
}

impl Drop for DelayProxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl DelayProxy {
    /// A proxy before a server at an `http://` address.
    pub async fn before(endpoint: &str, round_trip: Duration) -> io::Result<Self> {
        let server = endpoint.trim_start_matches("http://").to_owned();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = server.clone();
                // A connection that breaks is its two ends' concern.
                tokio::spawn(async move { pass(client, &server, round_trip).await });
            }
        });
        Ok(Self { address, accepting })
    }

    /// Where it listens.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }
}

async fn pass(client: TcpStream, server: &str, round_trip: Duration) -> io::Result<()> {
    client.set_nodelay(true)?;
    // To connect takes a round trip of its own; the client's part of it was over at once.
    sleep(round_trip).await;
    let server = TcpStream::connect(server).await?;
    server.set_nodelay(true)?;
    let (client_reads, client_writes) = client.into_split();
    let (server_reads, server_writes) = server.into_split();
    let there = delay(client_reads, server_writes, round_trip / 2);
    let back = delay(server_reads, client_writes, round_trip / 2);
    tokio::try_join!(there, back).map(drop)
}

/// Hands on what comes from one end to the other, in order, each piece a moment later.
async fn delay(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, by: Duration) -> io::Result<()> {
    let (queue, mut queued) = mpsc::channel::<(Instant, Vec<u8>)>(READS_UNDER_WAY);
    let reading = async move {
        loop {
            let mut piece = Vec::with_capacity(READ_BYTES);
            let end = from.read_buf(&mut piece).await? == 0;
            if end || queue.send((Instant::now() + by, piece)).await.is_err() {
                return Ok(());
            }
        }
    };
    let writing = async move {
        while let Some((due, piece)) = queued.recv().await {
            sleep_until(due).await;
            to.write_all(&piece).await?;
        }
        to.shutdown().await
    };
    tokio::try_join!(reading, writing).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_answer_takes_a_round_trip_and_comes_whole() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let echo = tokio::spawn(async move {
            let (mut connection, _) = listener.accept().await.unwrap();
            let (mut reads, mut writes) = connection.split();
            tokio::io::copy(&mut reads, &mut writes).await.unwrap();
        });
        let round_trip = Duration::from_millis(20);
        let proxy = DelayProxy::before(&endpoint, round_trip).await.unwrap();
        let address = proxy.endpoint().trim_start_matches("http://").to_owned();
        let begun = Instant::now();
        let mut connection = TcpStream::connect(address).await.unwrap();
        let sent = vec![7; 300_000];
        let (mut reads, mut writes) = connection.split();
        let sending = async {
            writes.write_all(&sent).await.unwrap();
            writes.shutdown().await.unwrap();
        };
        let mut got = Vec::new();
        let (_, read) = tokio::join!(sending, reads.read_to_end(&mut got));
        read.unwrap();
        assert!(begun.elapsed() >= round_trip * 2);
        assert!(got == sent);
        echo.await.unwrap();
    }
}
