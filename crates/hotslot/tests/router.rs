//! A real axum server whose routes change, with the agent's word in the test's hands.

mod agent;

use agent::announce;
use axum::Router;
use axum::extract::ws::{WebSocket, WebSocketUpgrade};
use axum::extract::{ConnectInfo, State};
use axum::response::Response;
use axum::routing::get;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufStream};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;

/// There is one word for all tests.
static TURN: Mutex<()> = Mutex::const_new(());

/// A connection that stays open.
struct Client(BufStream<TcpStream>);

impl Client {
    async fn connect(address: SocketAddr) -> Self {
        Self(BufStream::new(TcpStream::connect(address).await.unwrap()))
    }

    async fn head(&mut self, request: &str) -> (u16, usize) {
        self.0.write_all(request.as_bytes()).await.unwrap();
        self.0.flush().await.unwrap();
        let (mut status, mut length) = (0, 0);
        loop {
            let mut line = String::new();
            assert_ne!(self.0.read_line(&mut line).await.unwrap(), 0, "the server closed the connection");
            let line = line.trim_end().to_ascii_lowercase();
            if line.is_empty() {
                return (status, length);
            }
            if let Some(rest) = line.strip_prefix("http/1.1 ") {
                status = rest[..3].parse().unwrap();
            }
            if let Some(rest) = line.strip_prefix("content-length: ") {
                length = rest.parse().unwrap();
            }
        }
    }

    async fn get(&mut self, path: &str) -> (u16, String) {
        let (status, length) = self.head(&format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n")).await;
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).await.unwrap();
        (status, String::from_utf8(body).unwrap())
    }

    async fn upgrade(&mut self, path: &str) {
        let headers = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n";
        let key = "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
        let (status, _) = self.head(&format!("GET {path} HTTP/1.1\r\nhost: test\r\n{headers}{key}\r\n")).await;
        assert_eq!(status, 101);
    }

    /// One short text frame each way (RFC 6455, section 5.2), masked with zeros.
    async fn ask(&mut self, text: &str) -> String {
        let mut frame = vec![0x81, 0x80 | text.len() as u8, 0, 0, 0, 0];
        frame.extend(text.as_bytes());
        self.0.write_all(&frame).await.unwrap();
        self.0.flush().await.unwrap();
        let mut header = [0; 2];
        self.0.read_exact(&mut header).await.unwrap();
        let mut text = vec![0; header[1].into()];
        self.0.read_exact(&mut text).await.unwrap();
        String::from_utf8(text).unwrap()
    }
}

/// What an edit changes: the body of the closure. Here it reads which body that is.
#[derive(Default)]
struct App {
    body: AtomicU32,
    built: AtomicU32,
    hits: AtomicU32,
}

fn routes(app: &Arc<App>) -> Router {
    app.built.fetch_add(1, SeqCst);
    let router = Router::new().route("/ws", get(socket));
    let router = match app.body.load(SeqCst) {
        0 => router.route("/old", get(hit)),
        1 => router.route("/new", get(hit)),
        _ => router.route("/ws", get(hit)),
    };
    router.with_state(Arc::clone(app))
}

async fn hit(State(app): State<Arc<App>>) -> String {
    (app.hits.fetch_add(1, SeqCst) + 1).to_string()
}

async fn socket(upgrade: WebSocketUpgrade, State(app): State<Arc<App>>) -> Response {
    upgrade.on_upgrade(move |socket| echo(socket, app))
}

async fn echo(mut socket: WebSocket, app: Arc<App>) {
    while let Some(Ok(message)) = socket.recv().await {
        let text = format!("{} {}", message.into_text().unwrap(), app.hits.load(SeqCst));
        socket.send(text.into()).await.unwrap();
    }
}

async fn bind() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_come_and_go_while_connections_and_state_stay() {
    let _turn = TURN.lock().await;
    announce(0);
    let app = Arc::new(App::default());
    let (listener, address) = bind().await;
    let shared = Arc::clone(&app);
    tokio::spawn(async move { axum::serve(listener, hotslot::router(move || routes(&shared))).await });

    let mut open = Client::connect(address).await;
    let mut socket = Client::connect(address).await;
    socket.upgrade("/ws").await;
    assert_eq!(open.get("/old").await, (200, "1".to_owned()));
    assert_eq!(open.get("/new").await.0, 404);
    assert_eq!(socket.ask("hello").await, "hello 1");

    // Only a patch makes a difference.
    app.body.store(1, SeqCst);
    assert_eq!(open.get("/new").await.0, 404);
    announce(1);
    assert_eq!(open.get("/new").await, (200, "2".to_owned()));
    assert_eq!(open.get("/old").await.0, 404);
    assert_eq!(socket.ask("still").await, "still 2");

    // Undone, and another patch of the same number, which must not be taken for the first.
    app.body.store(0, SeqCst);
    announce(0);
    app.body.store(1, SeqCst);
    announce(1);
    assert_eq!(open.get("/new").await, (200, "3".to_owned()));
    app.body.store(0, SeqCst);
    announce(0);
    assert_eq!(open.get("/old").await, (200, "4".to_owned()));

    // axum panics at a route that is there twice. What was served is served until the next patch.
    app.body.store(2, SeqCst);
    announce(1);
    assert_eq!(open.get("/old").await, (200, "5".to_owned()));
    assert_eq!(Client::connect(address).await.get("/old").await, (200, "6".to_owned()));
    app.body.store(1, SeqCst);
    announce(2);
    assert_eq!(open.get("/new").await, (200, "7".to_owned()));
    assert_eq!(socket.ask("always").await, "always 7");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_patch_makes_the_routes_once_for_all_connections() {
    let _turn = TURN.lock().await;
    let app = Arc::new(App::default());
    let (listener, address) = bind().await;
    let shared = Arc::clone(&app);
    tokio::spawn(async move { axum::serve(listener, hotslot::router(move || routes(&shared))).await });
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(Client::connect(address).await);
    }
    for version in 3..6 {
        announce(version);
        let requests = clients.into_iter().map(|mut client| {
            tokio::spawn(async move {
                assert_eq!(client.get("/old").await.0, 200);
                client
            })
        });
        let requests: Vec<_> = requests.collect();
        clients = Vec::new();
        for request in requests {
            clients.push(request.await.unwrap());
        }
    }
    assert_eq!(app.built.load(SeqCst), 4);
    assert_eq!(app.hits.load(SeqCst), 60);
}

async fn who(ConnectInfo(client): ConnectInfo<SocketAddr>) -> String {
    client.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn serves_in_every_way_that_a_router_does() {
    let make = || Router::new().route("/", get(who));
    let with_address = hotslot::router(make).into_make_service_with_connect_info::<SocketAddr>();
    let (listener, address) = bind().await;
    tokio::spawn(async move { axum::serve(listener, with_address).await });
    let mut client = Client::connect(address).await;
    let own = client.0.get_ref().local_addr().unwrap().to_string();
    assert_eq!(client.get("/").await, (200, own));

    let make = || Router::new().route("/inner", get(|| async { "inner" }));
    let outer = Router::new().route("/outer", get(|| async { "outer" })).fallback_service(hotslot::router(make));
    let (listener, address) = bind().await;
    tokio::spawn(async move { axum::serve(listener, outer).await });
    let mut client = Client::connect(address).await;
    assert_eq!(client.get("/outer").await, (200, "outer".to_owned()));
    assert_eq!(client.get("/inner").await, (200, "inner".to_owned()));

    let (listener, address) = bind().await;
    tokio::spawn(async move { axum::serve(listener, hotslot::router(make).into_make_service()).await });
    assert_eq!(Client::connect(address).await.get("/inner").await, (200, "inner".to_owned()));
}
