// A page of the crate in; the page with hotslot's client in it, and with the program started when it does not start it
// itself, out.

const CLIENT = '<script type="module" src="/@hotslot/client.js"></script>';

/** For a crate without an `index.html`. */
export function defaultPage(name: string): string {
  return `<!doctype html>
<html lang="en">
  <head>
    <meta charset="utf-8" />
    <meta name="viewport" content="width=device-width, initial-scale=1" />
    <title>${name}</title>
  </head>
  <body>
    <div id="app"></div>
  </body>
</html>
`;
}

/** `loadsProgram`: the page, or a script of it, imports the glue by itself. */
export function completePage(html: string, name: string, loadsProgram: boolean): string {
  const start = `<script type="module">import init from '/pkg/${name}.js'; await init();</script>`;
  const scripts = loadsProgram && !isTrunk(html) ? CLIENT : `${CLIENT}${start}`;
  // trunk turns these into style sheets when it builds.
  const styled = html.replaceAll(/<link\b[^>]*\bdata-trunk\b[^>]*>/gi, (link) =>
    link.replace(/\brel\s*=\s*["']?css\b["']?/i, 'rel="stylesheet"'),
  );
  return insertFirstInHead(styled, scripts);
}

/** The scripts that a page or a script may load, as written there: as an attribute, an import, a worker. */
export function scriptReferences(text: string): readonly string[] {
  return [...text.matchAll(/(?:\bsrc\s*=\s*|["'`])([^"'`\s<>=]+\.m?js)\b/gi)].flatMap(([, source]) => source ?? []);
}

function isTrunk(html: string): boolean {
  return /<link\b(?=[^>]*\bdata-trunk\b)(?=[^>]*\brel\s*=\s*["']?rust\b)/i.test(html);
}

/** The client must be there before anything of the page fails. HTML may leave out head, html and even the doctype. */
function insertFirstInHead(html: string, scripts: string): string {
  for (const tag of [
    /<!--[\s\S]*?-->|<head(?:\s[^>]*)?>/gi,
    /<!--[\s\S]*?-->|<html(?:\s[^>]*)?>/gi,
    /<!doctype[^>]*>/gi,
  ]) {
    const match = [...html.matchAll(tag)].find(([text]) => !text.startsWith('<!--'));
    if (match !== undefined) {
      const at = match.index + match[0].length;
      return html.slice(0, at) + scripts + html.slice(at);
    }
  }
  return scripts + html;
}
