// A request's head in; whether it may be answered, and the path it means, out. Nothing here touches the file system.
//
// Against whom: a web page from elsewhere, open in the developer's browser. It can send requests here, also under a
// name of its own that it makes resolve to this machine (DNS rebinding). It must not read the program nor drive it.

import type { IncomingHttpHeaders } from 'node:http';
import { isIP } from 'node:net';

/** Why a request is not answered, with the status that says so. */
export interface Denial {
  readonly status: 400 | 403;
  readonly reason: string;
}

/**
 * The Host header must name this machine: no name that somebody else controls. `host` is the address listened on; for
 * a wildcard (`0.0.0.0`, `::`) any IP address will do, since nobody can rebind one.
 */
export function checkHost(headers: IncomingHttpHeaders, host: string): Denial | undefined {
  const name = hostname(headers.host ?? '');
  const local = name === 'localhost' || name.endsWith('.localhost') || name === '127.0.0.1' || name === '::1';
  const wildcard = host === '0.0.0.0' || host === '::';
  if (local || name === host.toLowerCase() || (wildcard && isIP(name) !== 0)) return undefined;
  return { status: 403, reason: `this server is not called ${JSON.stringify(headers.host ?? '')}` };
}

/** The name or address in a Host header, without port and brackets. */
function hostname(host: string): string {
  const match = /^(?:\[([0-9a-f:.]+)\]|([^:[\]@/\\\s]+))(?::\d+)?$/i.exec(host);
  return (match?.[1] ?? match?.[2] ?? '').toLowerCase();
}

/**
 * For what drives the program: only pages from this very origin. A request without Origin or Sec-Fetch-Site is not
 * from another page in a browser we serve (or is stopped by the token). Expects that the Host has been checked.
 */
export function checkOrigin(headers: IncomingHttpHeaders): Denial | undefined {
  const site = headers['sec-fetch-site'];
  const foreignSite = site !== undefined && site !== 'same-origin' && site !== 'none';
  const { origin } = headers;
  if (!foreignSite && (origin === undefined || origin === `http://${headers.host}`)) return undefined;
  return { status: 403, reason: `not for pages of ${JSON.stringify(origin ?? site)}` };
}

/** For everything else: another site may link here, but not include what is here. */
export function checkSite(headers: IncomingHttpHeaders): Denial | undefined {
  const link = headers['sec-fetch-mode'] === 'navigate' && headers['sec-fetch-dest'] === 'document';
  if (headers['sec-fetch-site'] !== 'cross-site' || link) return undefined;
  return { status: 403, reason: 'not for pages of other sites' };
}

/** The segments of a request target's path, decoded once, none of which can mean another folder. */
export function readPath(target: string): readonly string[] | Denial {
  const raw = target.split(/[?#]/, 1)[0] ?? '';
  if (!raw.startsWith('/')) return { status: 400, reason: 'expected a path' };
  const segments: string[] = [];
  for (const encoded of raw.slice(1).split('/')) {
    let segment: string;
    try {
      segment = decodeURIComponent(encoded);
    } catch {
      return { status: 400, reason: 'the path is not valid percent-encoding' };
    }
    if (segment === '.' || segment === '..' || /[/\\\0]/.test(segment)) {
      return { status: 400, reason: 'the path leaves its folder' };
    }
    segments.push(segment);
  }
  return segments;
}
