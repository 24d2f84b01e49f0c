# docker build -t jepa . ; docker run --rm -v "$PWD/runs:/experiments/runs" jepa demo recipe=none
# With a GPU: docker run --gpus all ...; torch's wheel brings CUDA, and MUJOCO_GL=egl draws on the GPU.
FROM python:3.12-slim
RUN apt-get update && apt-get install -y --no-install-recommends libegl1 libgl1 libopengl0 libgl1-mesa-dri git \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/jepa
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY commands commands
COPY configs configs
COPY data data
COPY envs envs
COPY jepa jepa
COPY planners planners
COPY world_model world_model
# For a machine without a GPU: --build-arg INDEX=https://download.pytorch.org/whl/cpu takes a tenth of the space.
ARG INDEX=
RUN pip install --no-cache-dir ${INDEX:+--extra-index-url $INDEX} -c constraints.txt .
ENV MUJOCO_GL=egl
WORKDIR /experiments
ENTRYPOINT ["jepa"]
CMD ["--help"]
