// A path's segments in; the file of the crate's folder that they mean out, if there is one and it may be shown.

import { realpath, stat } from 'node:fs/promises';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { join, relative, sep } from 'node:path';
import sirv from 'sirv';

type Found =
  | { readonly kind: 'file'; readonly path: string; readonly url: string }
  /** A folder with an index, asked for without the slash that relative links in it need. */
  | { readonly kind: 'folder' }
  | { readonly kind: 'refused'; readonly reason: string }
  | { readonly kind: 'none' };

/** The files of a crate that its pages may load: `public/` at the top, then the folder as it is. */
export interface Files {
  find(segments: readonly string[]): Promise<Found>;
  /** Answers with a file that was found, MIME type, ETag and range requests included. */
  send(request: IncomingMessage, response: ServerResponse, file: { readonly url: string }): void;
}

/** Never shown, whatever links to it: the program's source and build, keys, and names that begin with a dot. */
const HIDDEN = /^\.(?!well-known$)|^cargo\.(toml|lock)$|^target$|\.(rs|pem|crt|key)$/i;

export function openFiles(root: string): Files {
  // `dev` looks at the disk for each request. It ignores `dotfiles`, so `find` decides about them.
  const serve = sirv(root, { dev: true, etag: true, dotfiles: false, extensions: [] });

  return {
    async find(segments) {
      const inPublic = await look(root, ['public', ...segments]);
      return inPublic.kind === 'none' ? look(root, segments) : inPublic;
    },
    send(request, response, { url }) {
      // sirv does not watch the stream it reads from: a file that vanishes now would end the process, and a client
      // that leaves would leave the file open.
      response.once('pipe', (source: NodeJS.ReadableStream & { destroy?: () => void }) => {
        source.on('error', () => response.destroy());
        response.once('close', () => source.destroy?.());
      });
      request.url = url;
      serve(request, response);
    },
  };
}

/** As static servers do: the file itself, `NAME.html` for `NAME`, `index.html` for a folder. */
async function look(root: string, segments: readonly string[]): Promise<Found> {
  const folder = segments.at(-1) === '';
  const path = segments.filter((segment) => segment !== '');
  if (path.some((segment) => HIDDEN.test(segment))) return { kind: 'none' };
  if (folder) return file(root, [...path, 'index.html']);
  const last = path.at(-1) ?? '';
  for (const candidate of [path, [...path.slice(0, -1), `${last}.html`]]) {
    const found = await file(root, candidate);
    if (found.kind !== 'none') return found;
  }
  const index = await file(root, [...path, 'index.html']);
  return index.kind === 'file' ? { kind: 'folder' } : index;
}

async function file(root: string, segments: readonly string[]): Promise<Found> {
  const path = join(root, ...segments);
  let real: string;
  try {
    real = await realpath(path);
    if (!(await stat(real)).isFile()) return { kind: 'none' };
  } catch {
    return { kind: 'none' };
  }
  // What a symbolic link leads to must itself be something we show.
  const inside = relative(await realpath(root), real).split(sep);
  if (inside[0] === '..' || inside.some((segment) => HIDDEN.test(segment))) {
    return { kind: 'refused', reason: `${segments.join('/')} is a link to something that is not served` };
  }
  return { kind: 'file', path: real, url: `/${segments.map((segment) => encodeURIComponent(segment)).join('/')}` };
}
