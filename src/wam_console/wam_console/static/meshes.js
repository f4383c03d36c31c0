// Triangles of MuJoCo's primitive shapes, all in one buffer; each vertex knows its body.

const SIDES = 28, RINGS = 10;

function turn(q, v) { // quaternion wxyz
  const [w, x, y, z] = q;
  const cx = y * v[2] - z * v[1] + w * v[0], cy = z * v[0] - x * v[2] + w * v[1], cz = x * v[1] - y * v[0] + w * v[2];
  return [v[0] + 2 * (y * cz - z * cy), v[1] + 2 * (z * cx - x * cz), v[2] + 2 * (x * cy - y * cx)];
}

// A grid of points of a surface: rows of [position, normal]; closed around.
function lathe(rows) {
  const points = [], triangles = [];
  for (const row of rows) {
    for (let i = 0; i <= SIDES; i++) {
      const angle = (2 * Math.PI * i) / SIDES, c = Math.cos(angle), s = Math.sin(angle);
      points.push([[row.r[0] * c, row.r[1] * s, row.z], [row.n[0] * c, row.n[1] * s, row.nz]]);
    }
  }
  const width = SIDES + 1;
  for (let row = 0; row + 1 < rows.length; row++) {
    if (rows[row].gap) continue;
    for (let i = 0; i < SIDES; i++) {
      const a = row * width + i, b = a + 1, c = a + width, d = c + 1;
      triangles.push(a, b, c, b, d, c);
    }
  }
  return { points, triangles };
}

function makeSphere([x, y, z]) {
  const rows = [];
  for (let i = 0; i <= 2 * RINGS; i++) {
    const angle = -Math.PI / 2 + (Math.PI * i) / (2 * RINGS), c = Math.cos(angle), s = Math.sin(angle);
    rows.push({ r: [x * c, y * c], z: z * s, n: [c / x, c / y], nz: s / z });
  }
  return lathe(rows);
}

function makeCapsule([radius, half]) {
  const rows = [];
  for (const side of [-1, 1]) {
    for (let i = 0; i <= RINGS; i++) {
      const angle = ((side < 0 ? i - RINGS : i) * Math.PI) / (2 * RINGS), c = Math.cos(angle), s = Math.sin(angle);
      rows.push({ r: [radius * c, radius * c], z: side * half + radius * s, n: [c, c], nz: s });
    }
  }
  return lathe(rows);
}

function makeCylinder([radius, half]) {
  const bevel = Math.min(radius, half) * 0.08;
  return lathe([
    { r: [0, 0], z: -half, n: [0, 0], nz: -1 },
    { r: [radius - bevel, radius - bevel], z: -half, n: [0, 0], nz: -1 },
    { r: [radius, radius], z: -half + bevel, n: [1, 1], nz: 0 },
    { r: [radius, radius], z: half - bevel, n: [1, 1], nz: 0 },
    { r: [radius - bevel, radius - bevel], z: half, n: [0, 0], nz: 1 },
    { r: [0, 0], z: half, n: [0, 0], nz: 1 },
  ]);
}

function makeBox([x, y, z]) {
  const points = [], triangles = [];
  for (const axis of [0, 1, 2]) for (const side of [-1, 1]) {
    const first = points.length, normal = [0, 0, 0];
    normal[axis] = side;
    for (const [u, v] of [[-1, -1], [1, -1], [1, 1], [-1, 1]]) {
      const p = [0, 0, 0];
      p[axis] = side; p[(axis + 1) % 3] = u; p[(axis + 2) % 3] = v;
      points.push([[p[0] * x, p[1] * y, p[2] * z], normal]);
    }
    triangles.push(...(side > 0 ? [0, 1, 2, 0, 2, 3] : [0, 2, 1, 0, 3, 2]).map((i) => i + first));
  }
  return { points, triangles };
}

const MAKERS = { box: makeBox, sphere: makeSphere, capsule: makeCapsule, cylinder: makeCylinder };

// Return { vertices: Float32Array of [position, normal, color, body] rows, indices }.
export function buildMesh(shapes) {
  const vertices = [], indices = [];
  for (const shape of shapes) {
    const { points, triangles } = MAKERS[shape.shape](shape.size);
    const first = vertices.length / 10;
    for (const [position, normal] of points) {
      const p = turn(shape.quat, position), n = turn(shape.quat, normal), length = Math.hypot(...n) || 1;
      vertices.push(p[0] + shape.pos[0], p[1] + shape.pos[1], p[2] + shape.pos[2],
        n[0] / length, n[1] / length, n[2] / length, ...shape.rgb, shape.body);
    }
    for (const i of triangles) indices.push(i + first);
  }
  return { vertices: new Float32Array(vertices), indices: new Uint32Array(indices) };
}
