//! HTTP: the routes as data, and who may use them.

mod ask;
mod auth;
mod enroll;
mod error;
mod hosts;
mod log;
mod login;
mod orders;
mod policy;
mod request;
mod tunnels;

use axum::Router;
use axum::http::Method;
use axum::middleware;
use axum::routing::{MethodRouter, delete, get, post, put};
use protocol::api::{ENROLL_BEGIN_PATH, ENROLL_FINISH_PATH};
use protocol::frame::CHANNEL_PATH;

use crate::app::App;
use crate::channel;

pub(crate) use error::{ApiError, Chain};

/// Who may use a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Anybody; what else is asked for stands in the handler.
    Open,
    /// Operators with a token.
    Operator,
}

/// One route.
pub(crate) struct Route {
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "the handler knows it; tests walk through the routes by it")
    )]
    pub(crate) method: Method,
    pub(crate) path: &'static str,
    pub(crate) access: Access,
    handler: MethodRouter<App>,
}

/// All routes. Router and tests are made from this list, so that no route can miss its guard.
pub(crate) fn routes() -> Vec<Route> {
    use Access::{Open, Operator};
    let route = |method, access, path, handler| Route { method, path, access, handler };
    let (get_, post_, put_, delete_) = (Method::GET, Method::POST, Method::PUT, Method::DELETE);
    vec![
        route(get_.clone(), Open, "/healthz", get(hosts::health)),
        route(post_.clone(), Open, "/api/v1/login/challenge", post(login::challenge)),
        route(post_.clone(), Open, "/api/v1/login", post(login::login)),
        route(get_.clone(), Operator, "/api/v1/me", get(login::me)),
        route(post_.clone(), Operator, "/api/v1/enrollments", post(enroll::create)),
        route(get_.clone(), Operator, "/api/v1/enrollments", get(enroll::list)),
        route(get_.clone(), Operator, "/api/v1/enrollments/{id}", get(enroll::show)),
        route(post_.clone(), Operator, "/api/v1/enrollments/{id}/approve", post(enroll::approve)),
        route(post_.clone(), Operator, "/api/v1/enrollments/{id}/reject", post(enroll::reject)),
        route(get_.clone(), Operator, "/api/v1/hosts", get(hosts::list)),
        route(get_.clone(), Operator, "/api/v1/hosts/{host_id}", get(hosts::show)),
        route(get_.clone(), Operator, "/api/v1/hosts/{host_id}/desired", get(hosts::get_desired)),
        route(put_, Operator, "/api/v1/hosts/{host_id}/desired", put(hosts::put_desired)),
        route(get_.clone(), Operator, "/api/v1/hosts/{host_id}/receipts", get(hosts::receipts)),
        route(get_.clone(), Operator, "/api/v1/hosts/{host_id}/log/checkpoint", get(log::checkpoint)),
        route(get_.clone(), Operator, "/api/v1/hosts/{host_id}/log/proof", get(log::proof)),
        route(post_.clone(), Operator, "/api/v1/hosts/{host_id}/ask", post(ask::ask)),
        route(post_.clone(), Operator, "/api/v1/hosts/{host_id}/orders", post(orders::submit)),
        route(get_.clone(), Operator, "/api/v1/hosts/{host_id}/orders", get(orders::list)),
        route(get_.clone(), Operator, "/api/v1/hosts/{host_id}/orders/{op}", get(orders::show)),
        route(post_.clone(), Operator, "/api/v1/hosts/{host_id}/tunnels", post(tunnels::open)),
        route(get_.clone(), Operator, "/api/v1/hosts/{host_id}/tunnels", get(tunnels::list)),
        route(get_.clone(), Operator, "/api/v1/tunnels/{id}", get(tunnels::show)),
        route(delete_, Operator, "/api/v1/tunnels/{id}", delete(tunnels::close)),
        route(get_.clone(), Operator, "/api/v1/tunnels/{id}/data", get(tunnels::operator_data)),
        route(post_.clone(), Operator, "/api/v1/policy", post(policy::submit)),
        route(get_.clone(), Operator, "/api/v1/policy", get(policy::show)),
        route(post_.clone(), Open, ENROLL_BEGIN_PATH, post(enroll::begin)),
        route(post_, Open, ENROLL_FINISH_PATH, post(enroll::finish)),
        route(get_.clone(), Open, CHANNEL_PATH, get(channel::open)),
        route(get_, Open, "/agent/v1/tunnels/{id}", get(tunnels::host_data)),
    ]
}

/// The hub's HTTP service.
pub(crate) fn router(app: App) -> Router {
    let mut open = Router::new();
    let mut guarded = Router::new();
    for Route { path, access, handler, .. } in routes() {
        match access {
            Access::Open => open = open.route(path, handler),
            Access::Operator => guarded = guarded.route(path, handler),
        }
    }
    let guard = middleware::from_fn_with_state(app.clone(), auth::require_operator);
    open.merge(guarded.route_layer(guard))
        .fallback(async || ApiError::NoSuchPath)
        .method_not_allowed_fallback(async || ApiError::WrongMethod)
        .with_state(app)
}

#[cfg(test)]
mod tests;
