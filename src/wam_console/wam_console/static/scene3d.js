// The robot in WebGL 2: one mesh whose vertices follow the poses of their bodies, a shadow, the
// ghost of where the plan ends, and the tools' paths.

import { buildMesh } from '/static/meshes.js';
import { color } from '/static/charts.js';

const MAX_BODIES = 128, SHADOW_SIZE = 2048;
// Where the processor draws, every frame costs the policy time: fewer of them.
// The address may say ?draw_ms=2000.
const SOFTWARE = /swiftshader|llvmpipe|software/i;
const SOFTWARE_PERIOD_MS = Number(new URLSearchParams(location.search).get('draw_ms')) || 350;
const LIGHT = normalize([0.35, -0.55, 1.0]);

const COMMON = `#version 300 es
precision highp float; precision highp int; precision highp sampler2DShadow;`;
const BODY_VERTEX = `${COMMON}
layout(location=0) in vec3 position; layout(location=1) in vec3 normal;
layout(location=2) in vec3 tint; layout(location=3) in float body;
uniform sampler2D poses; uniform mat4 projection, light;
out vec3 worldPosition, worldNormal, albedo; out vec4 lit;
vec3 rotate(vec4 q, vec3 v) { return v + 2.0 * cross(q.xyz, cross(q.xyz, v) + q.w * v); }
void main() {
  int at = 2 * int(body + 0.5);
  vec4 q = texelFetch(poses, ivec2(at + 1, 0), 0).yzwx;
  worldPosition = rotate(q, position) + texelFetch(poses, ivec2(at, 0), 0).xyz;
  worldNormal = rotate(q, normal); albedo = tint;
  lit = light * vec4(worldPosition, 1.0);
  gl_Position = projection * vec4(worldPosition, 1.0);
}`;
const SHADE = `
uniform sampler2DShadow shadow; uniform vec3 toLight;
float shadowAt(vec4 place, vec3 n) {
  vec3 p = place.xyz / place.w * 0.5 + 0.5;
  if (any(lessThan(p, vec3(0.0))) || any(greaterThan(p, vec3(1.0)))) return 1.0;
  float sum = 0.0, step = 1.3 / ${SHADOW_SIZE}.0;
  for (int x = -1; x <= 1; x++) for (int y = -1; y <= 1; y++)
    sum += texture(shadow, vec3(p.xy + vec2(x, y) * step, p.z - 0.0012));
  return sum / 9.0;
}`;
const BODY_FRAGMENT = `${COMMON}
in vec3 worldPosition, worldNormal, albedo; in vec4 lit; out vec4 pixel;
uniform vec3 eye, sky; uniform float gray; ${SHADE}
void main() {
  vec3 n = normalize(worldNormal), v = normalize(eye - worldPosition);
  vec3 base = pow(albedo, vec3(2.2));
  float direct = max(dot(n, toLight), 0.0) * shadowAt(lit, n);
  float hemisphere = 0.5 + 0.5 * n.z;
  float shine = pow(max(dot(n, normalize(toLight + v)), 0.0), 40.0) * direct;
  float rim = pow(1.0 - max(dot(n, v), 0.0), 4.0);
  vec3 c = base * (0.22 + 0.36 * hemisphere + 0.82 * direct) + 0.22 * shine + 0.10 * rim * sky;
  c = pow(c / (1.0 + 0.18 * c), vec3(1.0 / 2.2));
  pixel = vec4(mix(c, vec3(dot(c, vec3(0.33))) * 0.45 + sky * 0.45, gray), 1.0);
}`;
const GHOST_FRAGMENT = `${COMMON}
in vec3 worldPosition, worldNormal, albedo; in vec4 lit; out vec4 pixel;
uniform vec3 eye, ghost; uniform float gray;
void main() {
  float facing = abs(dot(normalize(worldNormal), normalize(eye - worldPosition)));
  pixel = vec4(ghost, mix(0.62, 0.10, facing) * (1.0 - 0.7 * gray));
}`;
const DEPTH_FRAGMENT = `${COMMON}
in vec3 worldPosition, worldNormal, albedo; in vec4 lit; out vec4 pixel; void main() { pixel = vec4(1.0); }`;
const FLOOR_VERTEX = `${COMMON}
layout(location=0) in vec3 position; uniform mat4 projection, light; out vec3 worldPosition; out vec4 lit;
void main() { worldPosition = position; lit = light * vec4(position, 1.0); gl_Position = projection * vec4(position, 1.0); }`;
const FLOOR_FRAGMENT = `${COMMON}
in vec3 worldPosition; in vec4 lit; out vec4 pixel; uniform vec3 sky, lines; uniform float dark; ${SHADE}
float grid(float size, float width) {
  vec2 at = worldPosition.xy / size, d = fwidth(at), g = abs(fract(at - 0.5) - 0.5) / d;
  return (1.0 - min(min(g.x, g.y) / width, 1.0)) * clamp(0.5 / max(d.x, d.y) - 1.0, 0.0, 1.0);
}
void main() {
  float fade = 1.0 - smoothstep(1.2, 5.5, length(worldPosition.xy - vec2(0.4, 0.0)));
  float line = max(0.45 * grid(0.25, 1.0), grid(1.0, 1.3));
  vec3 c = mix(sky, lines, line * 0.75);
  c *= mix(1.0, mix(0.80, 0.55, dark), 1.0 - shadowAt(lit, vec3(0.0, 0.0, 1.0)));
  pixel = vec4(mix(sky, c, fade), 1.0);
}`;
const LINE_VERTEX = `${COMMON}
layout(location=0) in vec3 position; layout(location=1) in float alpha; uniform mat4 projection; out float a;
void main() { a = alpha; gl_Position = projection * vec4(position, 1.0); }`;
const LINE_FRAGMENT = `${COMMON}
in float a; out vec4 pixel; uniform vec3 ghost; void main() { pixel = vec4(ghost, a); }`;

export class Scene3d {
  constructor(canvas) {
    this.canvas = canvas;
    const gl = this.gl = canvas.getContext('webgl2', { antialias: true, alpha: false });
    if (!gl) throw new Error('this browser has no WebGL 2');
    this.programs = {
      body: link(gl, BODY_VERTEX, BODY_FRAGMENT), ghost: link(gl, BODY_VERTEX, GHOST_FRAGMENT),
      depth: link(gl, BODY_VERTEX, DEPTH_FRAGMENT), floor: link(gl, FLOOR_VERTEX, FLOOR_FRAGMENT),
      line: link(gl, LINE_VERTEX, LINE_FRAGMENT),
    };
    const info = gl.getExtension('WEBGL_debug_renderer_info');
    const renderer = gl.getParameter(info ? info.UNMASKED_RENDERER_WEBGL : gl.RENDERER);
    this.periodMs = SOFTWARE.test(renderer) ? SOFTWARE_PERIOD_MS : 0;
    this.drawnMs = 0;
    this.shadow = makeShadowMap(gl);
    this.poses = { measured: makePoseTexture(gl), ghost: makePoseTexture(gl) };
    this.floor = makeBuffer(gl, new Float32Array([-9, -9, 0, 9, -9, 0, -9, 9, 0, 9, 9, 0]), [3]);
    this.lines = makeBuffer(gl, new Float32Array(4), [3, 1]);
    this.bodyCount = 0;
    this.objects = [];
    this.gray = 0;
    this.hasGhost = false;
    this.data = new Float32Array(MAX_BODIES * 8);
    this.addControls();
    new ResizeObserver(() => this.requestDraw()).observe(canvas);
  }

  setScene(scene) {
    // what moves comes first: the ghost shows only that
    const shapes = [...scene.shapes].sort((a, b) => a.fixed - b.fixed);
    const moving = buildMesh(shapes.filter((shape) => !shape.fixed));
    const all = buildMesh(shapes);
    this.robot = makeMesh(this.gl, all);
    this.robot.movingCount = moving.indices.length;
    this.bodyCount = scene.bodies;
    const offset = scene.camera.from.map((value, i) => value - scene.camera.at[i]);
    const distance = Math.hypot(...offset);
    this.home = { at: scene.camera.at, distance: distance * 0.92, azimuth: Math.atan2(offset[1], offset[0]), elevation: Math.asin(offset[2] / distance) };
    this.view = { ...this.home, at: [...this.home.at] };
    this.requestDraw();
  }

  setObjects(objects) {
    const key = JSON.stringify(objects.map((each) => [each.shape, each.size, each.rgb]));
    if (key !== this.objectKey) {
      this.objectKey = key;
      this.objectMesh = makeMesh(this.gl, buildMesh(objects.map((each, i) => ({
        ...each, pos: [0, 0, 0], quat: [1, 0, 0, 0], body: this.bodyCount + i,
        size: each.shape === 'cylinder' ? [each.size[0], each.size[2]] : each.size,
      }))));
    }
    this.objects = objects;
    this.requestDraw();
  }

  // bodies, ghost: Float32Array [bodies 7], position and quaternion wxyz; paths [tools rows 3]
  setPoses(bodies, ghost, paths, tools, rows, share) {
    this.measured = bodies;
    this.ghost = ghost;
    this.hasGhost = ghost !== null && differs(bodies, ghost);
    this.paths = { points: paths, tools, rows, share };
    this.requestDraw();
  }

  setStale(stale) {
    if (this.gray !== Number(stale)) { this.gray = Number(stale); this.requestDraw(); }
  }

  requestDraw() {
    if (this.pending) return;
    this.pending = true;
    const wait = this.drawnMs + this.periodMs - performance.now();
    setTimeout(() => requestAnimationFrame(() => {
      this.pending = false;
      this.drawnMs = performance.now();
      this.draw();
    }), Math.max(0, wait));
  }

  addControls() {
    const { canvas } = this;
    canvas.addEventListener('pointerdown', (event) => canvas.setPointerCapture(event.pointerId));
    canvas.addEventListener('pointermove', (event) => {
      if (!event.buttons || !this.view) return;
      if (event.buttons & 2 || event.shiftKey) {
        const scale = this.view.distance / canvas.clientHeight, a = this.view.azimuth;
        this.view.at[0] += scale * event.movementX * Math.sin(a);
        this.view.at[1] -= scale * event.movementX * Math.cos(a);
        this.view.at[2] += scale * event.movementY;
      } else {
        this.view.azimuth -= event.movementX * 0.006;
        this.view.elevation = Math.min(1.5, Math.max(-0.1, this.view.elevation + event.movementY * 0.006));
      }
      this.requestDraw();
    });
    canvas.addEventListener('wheel', (event) => {
      event.preventDefault();
      if (!this.view) return;
      this.view.distance = Math.min(8, Math.max(0.4, this.view.distance * Math.exp(event.deltaY * 0.001)));
      this.requestDraw();
    }, { passive: false });
    canvas.addEventListener('contextmenu', (event) => event.preventDefault());
    canvas.addEventListener('dblclick', () => { this.view = { ...this.home, at: [...this.home.at] }; this.requestDraw(); });
  }

  uploadPoses(texture, bodies) {
    const { gl, data } = this;
    for (let i = 0; i < this.bodyCount; i++) {
      data.set(bodies.subarray(7 * i, 7 * i + 3), 8 * i);
      data.set(bodies.subarray(7 * i + 3, 7 * i + 7), 8 * i + 4);
    }
    this.objects.forEach((each, i) => {
      data.set(each.pos, 8 * (this.bodyCount + i));
      data.set(each.quat, 8 * (this.bodyCount + i) + 4);
    });
    gl.activeTexture(gl.TEXTURE0);
    gl.bindTexture(gl.TEXTURE_2D, texture);
    gl.texSubImage2D(gl.TEXTURE_2D, 0, 0, 0, 2 * MAX_BODIES, 1, gl.RGBA, gl.FLOAT, data);
  }

  draw() {
    const { gl, canvas } = this;
    if (!this.robot || !this.measured || !canvas.clientWidth) return;
    const scale = Math.min(devicePixelRatio || 1, 2);
    const width = Math.round(canvas.clientWidth * scale), height = Math.round(canvas.clientHeight * scale);
    if (canvas.width !== width || canvas.height !== height) { canvas.width = width; canvas.height = height; }
    const { at, distance, azimuth, elevation } = this.view;
    const eye = [at[0] + distance * Math.cos(elevation) * Math.cos(azimuth), at[1] + distance * Math.cos(elevation) * Math.sin(azimuth), at[2] + distance * Math.sin(elevation)];
    const projection = multiply(perspective(0.62, width / height, 0.05, 40), lookAt(eye, at));
    const center = [0.45, 0, 0.7];
    const light = multiply(orthographic(2.1, 0.5, 7), lookAt(center.map((value, i) => value + 3.5 * LIGHT[i]), center));
    const shared = { projection, light, eye, toLight: LIGHT, sky: rgb('stage'), ghost: rgb('ghost'), lines: rgb('line'), gray: this.gray, dark: document.documentElement.dataset.theme === 'dark' ? 1 : 0 };
    this.uploadPoses(this.poses.measured, this.measured);
    gl.enable(gl.DEPTH_TEST);
    gl.disable(gl.BLEND);
    gl.bindFramebuffer(gl.FRAMEBUFFER, this.shadow.framebuffer);
    gl.viewport(0, 0, SHADOW_SIZE, SHADOW_SIZE);
    gl.clear(gl.DEPTH_BUFFER_BIT);
    gl.activeTexture(gl.TEXTURE1);
    gl.bindTexture(gl.TEXTURE_2D, null);
    this.use('depth', { ...shared, projection: light });
    this.drawSolids();
    gl.bindFramebuffer(gl.FRAMEBUFFER, null);
    gl.viewport(0, 0, width, height);
    gl.clearColor(...shared.sky, 1);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    gl.activeTexture(gl.TEXTURE1);
    gl.bindTexture(gl.TEXTURE_2D, this.shadow.texture);
    if (eye[2] > 0) {
      this.use('floor', shared);
      gl.bindVertexArray(this.floor.array);
      gl.drawArrays(gl.TRIANGLE_STRIP, 0, 4);
    }
    this.use('body', shared);
    this.drawSolids();
    if (this.hasGhost) this.drawGhost(shared);
    this.drawPaths(shared, eye);
  }

  drawSolids() {
    this.drawMesh(this.robot, this.robot.count);
    if (this.objectMesh && this.objects.length) this.drawMesh(this.objectMesh, this.objectMesh.count);
  }

  drawGhost(shared) {
    const { gl } = this;
    this.uploadPoses(this.poses.ghost, this.ghost);
    gl.colorMask(false, false, false, false);
    this.use('ghost', shared);
    this.drawMesh(this.robot, this.robot.movingCount);
    gl.colorMask(true, true, true, true);
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.SRC_ALPHA, gl.ONE_MINUS_SRC_ALPHA);
    gl.depthFunc(gl.LEQUAL);
    this.drawMesh(this.robot, this.robot.movingCount);
    gl.depthFunc(gl.LESS);
  }

  drawPaths(shared, eye) {
    const { gl, paths } = this;
    if (!paths || paths.rows < 2) return;
    const strip = [];
    for (let tool = 0; tool < paths.tools; tool++) {
      const point = (row) => Array.from(paths.points.subarray(3 * (tool * paths.rows + row), 3 * (tool * paths.rows + row) + 3));
      if (Math.hypot(...point(0).map((value, i) => value - point(paths.rows - 1)[i])) < 0.005) continue;
      for (let row = 0; row < paths.rows; row++) {
        const p = point(row), along = normalize(point(Math.min(row + 1, paths.rows - 1)).map((value, i) => value - point(Math.max(row - 1, 0))[i]));
        const side = normalize(cross(along, p.map((value, i) => eye[i] - value)));
        const alpha = row / (paths.rows - 1) < paths.share ? 0.22 : 0.95;
        for (const sign of [-1, 1]) {
          const q = p.map((value, i) => value + sign * 0.0045 * side[i]);
          if (strip.length && row === 0 && sign < 0) strip.push(...strip.slice(-4), ...q, alpha); // joins two strips without area
          strip.push(...q, alpha);
        }
      }
    }
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.SRC_ALPHA, gl.ONE_MINUS_SRC_ALPHA);
    this.use('line', shared);
    gl.bindVertexArray(this.lines.array);
    gl.bindBuffer(gl.ARRAY_BUFFER, this.lines.buffer);
    gl.bufferData(gl.ARRAY_BUFFER, new Float32Array(strip), gl.DYNAMIC_DRAW);
    gl.drawArrays(gl.TRIANGLE_STRIP, 0, strip.length / 4);
  }

  drawMesh(mesh, count) {
    const { gl } = this;
    gl.bindVertexArray(mesh.array);
    gl.drawElements(gl.TRIANGLES, count, gl.UNSIGNED_INT, 0);
  }

  use(name, values) {
    const { gl } = this, { program, places } = this.programs[name];
    gl.useProgram(program);
    for (const [key, value] of Object.entries(values)) {
      const place = places[key];
      if (place === undefined) continue;
      if (value.length === 16) gl.uniformMatrix4fv(place, false, value);
      else if (value.length === 3) gl.uniform3fv(place, value);
      else gl.uniform1f(place, value);
    }
    if (places.poses !== undefined) gl.uniform1i(places.poses, 0);
    if (places.shadow !== undefined) gl.uniform1i(places.shadow, 1);
  }
}

function rgb(name) {
  const value = color(name).slice(1);
  return [0, 2, 4].map((i) => parseInt(value.slice(i, i + 2), 16) / 255);
}

function differs(a, b) {
  for (let i = 0; i < a.length; i++) if (Math.abs(a[i] - b[i]) > 0.004) return true;
  return false;
}

function link(gl, vertex, fragment) {
  const program = gl.createProgram();
  for (const [kind, text] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, text);
    gl.compileShader(shader);
    if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS)) throw new Error(gl.getShaderInfoLog(shader));
    gl.attachShader(program, shader);
  }
  gl.linkProgram(program);
  const places = {};
  for (let i = 0; i < gl.getProgramParameter(program, gl.ACTIVE_UNIFORMS); i++) {
    const { name } = gl.getActiveUniform(program, i);
    places[name] = gl.getUniformLocation(program, name);
  }
  return { program, places };
}

function makeBuffer(gl, data, sizes) {
  const array = gl.createVertexArray(), buffer = gl.createBuffer();
  gl.bindVertexArray(array);
  gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
  gl.bufferData(gl.ARRAY_BUFFER, data, gl.STATIC_DRAW);
  const stride = 4 * sizes.reduce((sum, size) => sum + size, 0);
  sizes.reduce((offset, size, i) => {
    gl.enableVertexAttribArray(i);
    gl.vertexAttribPointer(i, size, gl.FLOAT, false, stride, offset);
    return offset + 4 * size;
  }, 0);
  return { array, buffer };
}

function makeMesh(gl, { vertices, indices }) {
  const made = makeBuffer(gl, vertices, [3, 3, 3, 1]);
  gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, gl.createBuffer());
  gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, indices, gl.STATIC_DRAW);
  gl.bindVertexArray(null);
  return { ...made, count: indices.length };
}

function makePoseTexture(gl) {
  const texture = gl.createTexture();
  gl.bindTexture(gl.TEXTURE_2D, texture);
  gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA32F, 2 * MAX_BODIES, 1, 0, gl.RGBA, gl.FLOAT, null);
  for (const name of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) gl.texParameteri(gl.TEXTURE_2D, name, gl.NEAREST);
  return texture;
}

function makeShadowMap(gl) {
  const texture = gl.createTexture(), framebuffer = gl.createFramebuffer();
  gl.bindTexture(gl.TEXTURE_2D, texture);
  gl.texStorage2D(gl.TEXTURE_2D, 1, gl.DEPTH_COMPONENT24, SHADOW_SIZE, SHADOW_SIZE);
  for (const name of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) gl.texParameteri(gl.TEXTURE_2D, name, gl.LINEAR);
  gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_COMPARE_MODE, gl.COMPARE_REF_TO_TEXTURE);
  gl.bindFramebuffer(gl.FRAMEBUFFER, framebuffer);
  gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.DEPTH_ATTACHMENT, gl.TEXTURE_2D, texture, 0);
  gl.drawBuffers([gl.NONE]);
  gl.bindFramebuffer(gl.FRAMEBUFFER, null);
  return { texture, framebuffer };
}

function normalize(v) { const l = Math.hypot(...v) || 1; return v.map((value) => value / l); }
function cross(a, b) { return [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]; }
function dot(a, b) { return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]; }

function multiply(a, b) { // column-major
  const out = new Float32Array(16);
  for (let c = 0; c < 4; c++) for (let r = 0; r < 4; r++)
    out[4 * c + r] = a[r] * b[4 * c] + a[4 + r] * b[4 * c + 1] + a[8 + r] * b[4 * c + 2] + a[12 + r] * b[4 * c + 3];
  return out;
}

function perspective(fovy, aspect, near, far) {
  const f = 1 / Math.tan(fovy / 2), d = 1 / (near - far);
  return [f / aspect, 0, 0, 0, 0, f, 0, 0, 0, 0, (near + far) * d, -1, 0, 0, 2 * near * far * d, 0];
}

function orthographic(half, near, far) {
  const d = 1 / (near - far);
  return [1 / half, 0, 0, 0, 0, 1 / half, 0, 0, 0, 0, 2 * d, 0, 0, 0, (near + far) * d, 1];
}

function lookAt(eye, at) {
  const z = normalize(eye.map((value, i) => value - at[i])), x = normalize(cross([0, 0, 1], z)), y = cross(z, x);
  return [x[0], y[0], z[0], 0, x[1], y[1], z[1], 0, x[2], y[2], z[2], 0, -dot(x, eye), -dot(y, eye), -dot(z, eye), 1];
}
